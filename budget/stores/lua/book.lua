-- How spend is booked that had no reservation, as in ends.py.

-- What `book` is told of a rolling pool.
local function book_part(value, at, now, span, since)
  local parts, index, start, span_, since_ = rolling().at(value, at, now, span, since)
  return { parts = parts, at = index, start = start, span = span_, since = since_ }
end

-- Add a cost to spent that no stored reservation stands for, and remember its id. Buckets: start, end, since, spent,
-- reserved, carry of each pool; of a rolling one what `part_at` returned.
local function book(version, seq, now, due, head, values, buckets, kind, actual, kept, names)
  local spends, count = figures(actual), #buckets
  local form, _, from = layout(kept)
  local starts, before, after, writes, closed, opened = {}, {}, {}, {}, {}, false
  for i, bucket in ipairs(buckets) do
    local value, unit = values[i + 2], string.byte(kept, form % 32 >= 16 and from or from + i - 1) + 1
    local list, key, new = writes, KEYS[i + 7], nil
    before[i] = value
    if bucket.parts then
      local parts, at = bucket.parts, bucket.at
      if at then
        parts[at + 1] = add(parts[at + 1], spends[unit])
        new, opened = rolling().write(parts, bucket.span, bucket.since), opened or not value
      end
      before[i] = value or at == nil and NO_BUCKET or nil
      starts[i], after[i] = bucket.start, rolling().shown(parts, bucket.span, bucket.since, now)
    else
      local newest = value and struct.unpack('<d', value)
      starts[i] = bucket[1]
      new = struct.pack(BUCKET, bucket[1], bucket[2], bucket[3], add(bucket[4], spends[unit]), bucket[5], bucket[6])
      after[i], opened = new, opened or not newest or newest < bucket[1]
      if newest and bucket[1] < newest then list, key = closed, closed_field(key, bucket[1]) end
    end
    if new then list[#list + 1], list[#list + 2] = key, new end
  end
  local packed = pack_starts(starts, count)
  local record = pack_record('r', 0, now, now, now, actual, packed, kept)
  if opened then check_windows(before, count) end

  -- Nothing can fail from here.
  local marker = append(version, seq, now, due, head, kind, ARGV[1], actual, '', packed, kept, '')
  if opened then open_windows(before, starts, count, names) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  redis.call('SET', KEYS[7], record, 'PX', KEEP.r)
  redis.call('MSET', KEYS[1], marker, unpack(writes))
  return { 'booked', now, marker, table.concat(after), record }
end
