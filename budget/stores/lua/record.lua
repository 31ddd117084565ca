#!lua flags=allow-oom
-- Book spend that had no reservation.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, swept; of each pool start, end, since, limit, rollover, span  3 actual  4 kept  5 names of
--       the pools  6 what it is called in the ledger
-- reply due: id ...; repeated | conflict: record; stale_policy | stale_window; booked: buckets, record

local given, asked, swept = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local told = values[1] or ''
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if record then return { same_request(record, ARGV[4]) and 'repeated' or 'conflict', now, told, record } end
if asked ~= version then return { 'stale_policy', now, told } end
local buckets = {}
for i = 1, #KEYS - 7 do
  local at, value = 48 * i - 23, values[i + 2]
  local _, _, since, limit, rollover, span = struct.unpack('<dddddd', ARGV[2], at)
  local bucket = value and #value <= 48 and { read_bucket(value) }
  if span > 0 then
    bucket = book_part(value, now, now, span, since)
  elseif not bucket then
    bucket = { open_window(nil, 0, now, ARGV[2], at, rollover) }
  elseif now >= bucket[2] then
    bucket = { open_window(bucket[2], left(limit, bucket[4], bucket[5], bucket[6]), now, ARGV[2], at, rollover) }
  end
  if not bucket.parts and #bucket == 0 then return { 'stale_window', now, told } end
  buckets[i] = bucket
end
return book(version, seq, now, due, head, values, buckets, ARGV[6], ARGV[3], ARGV[4], ARGV[5])
