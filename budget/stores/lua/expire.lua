#!lua flags=allow-oom
-- Charge a reservation whose lease has ended: it is presumed spent. One that ended or was renewed meanwhile is left.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now  3 detail
-- reply ended; pools: record; expired: buckets, record

local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local version, seq, clock, due, head = read_marker(values[1])
local now = instant(struct.unpack('<i8', ARGV[2]), clock)
local record = values[2]
local r = record and read_record(record)
if not r or r.state ~= 'o' or now < r.lease_end then return { 'ended', now, version } end
return barred(version, now, record, r)
  or finish(version, seq, now, due, head, values, r, 'x', 'expired', r.amounts, ARGV[3])
