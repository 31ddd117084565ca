#!lua flags=allow-oom
-- Replace a reservation by the true cost; with draws, book also what the store does not know.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept, book, made  3 actual  4 detail  and to book: 5 per pool: start, end  6 units, zeros
--       7 pool ids  8 body  9 names
-- reply unknown; due: id ...; pools | repeated | conflict: record; reconciled: buckets, record

local given, swept, booked, made = struct.unpack('<i8i8i8i8', ARGV[2])
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
  local r = read_record(record)
  local actual = complete(ARGV[3], r.amounts)
  return barred(version, now, record, r, r.state == 'r' and r.charged == actual)
    or finish(version, seq, now, due, head, values, r, 'r', 'reconciled', actual, ARGV[4])
end
if booked == 0 then return { 'unknown', now, version } end

-- The bucket that held the instant when it was made, also one that is over.
local buckets = {}
for i = 1, #KEYS - 7 do
  local start, finish_ = struct.unpack('<i8i8', ARGV[5], 16 * i - 15)
  local value = values[i + 2]
  local s, e = struct.unpack('<i8i8', value or ARGV[5], value and 1 or 16 * i - 15)
  if not (value and (s <= made and made < e or s == start)) then
    value = redis.call('HGET', KEYS[5], closed_field(KEYS[i + 7], start))
  end
  buckets[i] = value and { struct.unpack(BUCKET, value) } or { start, finish_, start, 0, 0 }
end
return book(version, seq, now, due, head, values, buckets, 'reconciled', ARGV[3], ARGV[6], ARGV[7], '', ARGV[8], ARGV[9])
