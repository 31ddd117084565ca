#!lua flags=allow-oom
-- Charge a reservation whose lease has ended: it is presumed spent. One that ended or was renewed meanwhile is left.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now  3 detail  4 pool ids
-- reply left; pools: record; ended: buckets, record

local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local version, seq, clock, due, head = read_marker(values[1])
local now = instant(struct.unpack('<d', ARGV[2]), clock)
local record = values[2]
local r = record and read_record(record)
-- An end takes its lease away last; one that could not left it behind.
if r and r.state ~= 'o' then redis.call('ZREM', KEYS[2], ARGV[1], pool_id(KEYS[7])) end
if not r or r.state ~= 'o' or now < r.lease_end then return { 'left', now, values[1] or '' } end
return barred(values[1] or '', now, record, r, ARGV[4])
  or finish(version, seq, now, due, head, values, r, 'x', rest(r), ARGV[3])
