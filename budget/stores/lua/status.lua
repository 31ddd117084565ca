#!lua flags=no-writes
-- Read the present bucket of each pool.
-- KEYS  marker, leases, pool ...
-- ARGV  1 now, swept
-- reply due: id ...; status: bucket or '' ...

local given, swept = struct.unpack('<dd', ARGV[1])
local values = redis.call('MGET', KEYS[1], unpack(KEYS, 3))
local answer, _, _, now = enter(values[1], given, swept)
if answer then return answer end
local found = { 'status', now, values[1] or '' }
for i = 1, #KEYS - 2 do
  local value, shown_ = values[i + 1], ''
  if value then
    if #value > 48 then
      local parts, span, since = rolling().read(value)
      shown_ = rolling().shown(parts, span, since, now)
    else
      local start, finish = struct.unpack('<dd', value)
      if start <= now and now < finish then shown_ = value end
    end
  end
  found[i + 3] = shown_
end
return found
