#!lua flags=allow-oom
-- Book spend that had no reservation.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, swept  3 actual  4 per pool: start, end, since  5 units, zeros  6 pool ids
--       7 digest  8 body  9 names
-- reply due: id ...; repeated | conflict: record; stale_policy | stale_window; recorded: buckets, record

local given, asked, swept = struct.unpack('<i8i8i8', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local version, seq, clock, due, head = read_marker(values[1])
local now = instant(given, clock)
if swept == 0 then
  local answer
  due, answer = look_at_leases(KEYS[2], due, now, version)
  if answer then return answer end
end
local record = values[2]
if record then
  return { read_record(record).digest == ARGV[7] and 'repeated' or 'conflict', now, version, record }
end
if asked ~= version then return { 'stale_policy', now, version } end
local buckets = {}
for i = 1, #KEYS - 7 do
  local value = values[i + 2]
  local bucket = value and { struct.unpack(BUCKET, value) }
  if not value or now >= bucket[2] then bucket = { open_window(value and bucket[2], now, ARGV[4], i) } end
  if #bucket == 0 then return { 'stale_window', now, version } end
  buckets[i] = bucket
end
return book(version, seq, now, due, head, values, buckets, 'recorded', ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
