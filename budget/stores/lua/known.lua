-- How a reconcile begins: one that the store knows ends here.

local given, swept, made = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local told = values[1] or ''
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if record then
  local r = read_record(record)
  local actual = complete(ARGV[3], r)
  return barred(told, now, record, r, ARGV[5], r.state == 'r' and r.charged == actual)
    or finish(version, seq, now, due, head, values, r, 'r', actual, ARGV[4], not ARGV[6] and made)
end
