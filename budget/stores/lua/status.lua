#!lua flags=no-writes
-- Read the newest bucket of each pool; its window may be over. Of a rolling pool, what still counts.
-- KEYS  marker, leases, pool ...
-- ARGV  1 now, swept
-- reply due: id ...; status: bucket or '' ...

local given, swept = struct.unpack('<dd', ARGV[1])
local values = redis.call('MGET', KEYS[1], unpack(KEYS, 3))
local answer, _, _, now = enter(values[1], given, swept)
if answer then return answer end
local found = { 'status', now, values[1] or '' }
for i = 1, #KEYS - 2 do
  local value = values[i + 1]
  if value and #value > 48 then
    local parts, span, since = rolling().read(value)
    value = rolling().shown(parts, span, since, now)
  end
  found[i + 3] = value or ''
end
return found
