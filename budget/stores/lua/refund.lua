#!lua flags=allow-oom
-- Make a whole reservation available again. One that the store does not know leaves a tombstone: a reserve that was
-- delayed past its caller's patience must not be admitted after this.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept, made  3 detail  4 pool ids  5 kept of nothing
-- reply due: id ...; pools | repeated | conflict: record; ended: buckets, record or only what was charged

local given, swept, made = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if not record then
  record = pack_record('f', 0, now, now, now, NOTHING, '', ARGV[5])
  redis.call('SET', KEYS[7], record, 'PX', KEEP.f)
  return { 'ended', now, values[1] or '', '', record }
end
local r = read_record(record)
return barred(values[1] or '', now, record, r, ARGV[4], r.state == 'f')
  or finish(version, seq, now, due, head, values, r, 'f', NOTHING, ARGV[3], made)
