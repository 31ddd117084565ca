#!lua flags=allow-oom
-- Book spend that had no reservation.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, swept  3 actual  4 per pool: start, end, since  5 per pool: unit, 0  6 pool ids
--       7 digest  8 body  9 names
-- reply due: id ...; repeated | conflict: record; stale_policy | stale_window; recorded: buckets, record

local given, version, swept = struct.unpack('<i8i8i8', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local m = read_marker(values[1])
local now = instant(given, m)
local ids = swept == 0 and due(KEYS[2], m, now)
if ids then return ids end
local record = values[2]
if record then
  return { read_record(record).digest == ARGV[7] and 'repeated' or 'conflict', now, m.version, record }
end
if version ~= m.version then return { 'stale_policy', now, m.version } end
local buckets = {}
for i = 1, #KEYS - 7 do
  local start, finish_, since = struct.unpack('<i8i8i8', ARGV[4], 24 * i - 23)
  buckets[i] = { present(values[i + 2], now, start, finish_, since) }
  if #buckets[i] == 0 then return { 'stale_window', now, m.version } end
end
return book(m, now, values, buckets, 'recorded', ARGV[1], ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
