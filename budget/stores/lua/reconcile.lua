#!lua flags=allow-oom
-- Replace a reservation by the true cost; with something kept, book also what the store does not know.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept, made  3 actual  4 detail  5 pool ids  6 kept, or ''  7 of each pool: start, end  8 names
-- reply unknown; due: id ...; pools | repeated | conflict: record; ended: buckets, record or only what was charged;
--       booked: buckets, record

local given, swept, made = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if record then
  local r = read_record(record)
  local actual = complete(ARGV[3], r.kept)
  return barred(version, now, record, r, ARGV[5], r.state == 'r' and r.charged == actual)
    or finish(version, seq, now, due, head, values, r, 'r', actual, ARGV[4], ARGV[6] == '' and made)
end
if ARGV[6] == '' then return { 'unknown', now, version } end

-- The bucket that held the instant when it was made, also one that is over.
local buckets = {}
for i = 1, #KEYS - 7 do
  local start, finish_ = struct.unpack('<dd', ARGV[7], 16 * i - 15)
  local value, s, e = values[i + 2], nil, nil
  if value then s, e = struct.unpack('<dd', value) end
  if not (value and (s <= made and made < e or s == start)) then
    value = redis.call('HGET', KEYS[5], closed_field(KEYS[i + 7], start))
  end
  buckets[i] = value and { struct.unpack(BUCKET, value) } or { start, finish_, start, 0, 0 }
end
return book(version, seq, now, due, head, values, buckets, 'r', ARGV[3], ARGV[6], ARGV[8])
