#!lua flags=allow-oom
-- Replace a reservation by the true cost, or book that if the store does not know it.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, swept, made  3 actual  4 detail  5 pool ids  6 kept  7 of each pool: start, end, since, limit,
--       rollover, span  8 names
-- reply due: id ...; pools | repeated | conflict: record; ended | booked: buckets, record

-- The bucket that held the instant when it was made, also one that is over.
local buckets = {}
for i = 1, #KEYS - 7 do
  local start, finish_, since, limit, rollover, span = struct.unpack('<dddddd', ARGV[7], 48 * i - 47)
  local value = values[i + 2]
  if span > 0 then
    buckets[i] = book_part(value, math.min(made, now), now, span, since)
  else
    local newest = value and { read_bucket(value) }
    if newest and (newest[1] <= made and made < newest[2] or newest[1] == start) then
      buckets[i] = newest
    else
      value = redis.call('HGET', KEYS[5], closed_field(KEYS[i + 7], start))
      buckets[i] = value and { read_bucket(value) } or { start, finish_, start, 0, 0, 0 }
      if not value and newest and start >= newest[2] then
        buckets[i] = { open_window(newest[2], left(limit, newest[4], newest[5], newest[6]), start, ARGV[7], 48 * i - 47,
          rollover) }
      end
    end
  end
end
return book(version, seq, now, due, head, values, buckets, 'r', ARGV[3], ARGV[6], ARGV[8])
