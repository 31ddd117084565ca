#!lua flags=allow-oom
-- Make a whole reservation available again. One that the store does not know leaves a tombstone: a reserve that was
-- delayed past its caller's patience must not be admitted after this.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept  3 detail
-- reply due: id ...; pools | repeated | conflict: record; refunded: buckets, record

local given, swept = struct.unpack('<i8i8', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local m = read_marker(values[1])
local now = instant(given, m)
local ids = swept == 0 and due(KEYS[2], m, now)
if ids then return ids end
local record = values[2]
if not record then
  record = pack_record('f', 0, now, now, now, NOTHING, NOTHING, pack_shares({}, '', ''), '', '')
  redis.call('SET', KEYS[7], record, 'PX', KEEP.f)
  return { 'refunded', now, m.version, '', record }
end
local r = read_record(record)
return barred(m, now, record, r, r.state == 'f')
  or finish(m, now, values, ARGV[1], r, 'f', 'refunded', NOTHING, ARGV[3])
