#!lua flags=allow-oom
-- Book spend that had no reservation.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, swept; of each pool start, end, since  3 actual  4 kept  5 names of the pools
-- reply due: id ...; repeated | conflict: record; stale_policy | stale_window; booked: buckets, record

local given, asked, swept = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if record then return { same_request(record, ARGV[4]) and 'repeated' or 'conflict', now, version, record } end
if asked ~= version then return { 'stale_policy', now, version } end
local buckets = {}
for i = 1, #KEYS - 7 do
  local value = values[i + 2]
  local bucket = value and { struct.unpack(BUCKET, value) }
  if not value or now >= bucket[2] then bucket = { open_window(value and bucket[2], now, ARGV[2], 1 + 24 * i) } end
  if #bucket == 0 then return { 'stale_window', now, version } end
  buckets[i] = bucket
end
return book(version, seq, now, due, head, values, buckets, 'b', ARGV[3], ARGV[4], ARGV[5])
