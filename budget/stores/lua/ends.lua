-- How a reservation ends, and how spend is booked that had none.

local KEEP = { r = 3600000, f = 3600000, x = 604800000 }

-- A counter that would pass MAX stays there, and refuses every amount above zero.
local function add(counter, amount)
  if counter == MAX then return MAX end
  return math.min(counter + amount, MAX)
end

-- Five figures as numbers, by unit; what was not said is 0, and a slot is never spent.
local function figures(amounts)
  local a, b, c, d, e = struct.unpack('<i8i8i8i8i8', amounts)
  return { [0] = math.max(a, 0), math.max(b, 0), math.max(c, 0), math.max(d, 0), math.max(e, 0), 0 }
end

-- Figures that were not said (-1) are those that were reserved.
local function complete(actual, kept)
  if not string.find(actual, '\255\255\255\255\255\255\255\255', 1, true) then return actual end
  local whole = {}
  for i = 1, 5 do
    local from = 8 * i - 7
    local said = struct.unpack('<i8', actual, from) >= 0
    whole[i] = said and string.sub(actual, from, from + 7) or string.sub(kept, from + 16, from + 23)
  end
  return table.concat(whole)
end

-- The answer to an end that came before, or whose caller thinks of other pools; nil if it may be carried out.
local function barred(version, now, record, r, ids, same)
  if r.state == 'r' or r.state == 'f' then return { same and 'repeated' or 'conflict', now, version, record } end
  if read_names(r.kept) ~= ids then return { 'pools', now, version, record } end
  return nil
end

-- Move an open reservation to its end, or correct an expired one by the difference. Who knows when it was made knows the
-- rest, and is not told it again.
local function finish(version, seq, now, due, head, values, r, state, actual, detail, made)
  local late, count = r.state == 'x', #KEYS - 7
  local spends, before = figures(actual), late and figures(r.charged)
  local shares = { struct.unpack('<' .. string.rep('d', 2 * count), r.kept, OFFSET + 6) }
  local starts = { struct.unpack('<' .. string.rep('d', count), r.starts) }
  local after, writes, closed = {}, {}, {}
  local KEYS, pack, unpack_ = KEYS, struct.pack, struct.unpack
  for i = 1, count do
    local unit, key, value = shares[i], KEYS[i + 7], values[i + 2]
    local start, finish_, since, spent, reserved
    if value then start, finish_, since, spent, reserved = unpack_(BUCKET, value) end
    if start ~= starts[i] then
      key = closed_field(key, starts[i])
      start, finish_, since, spent, reserved = unpack_(BUCKET, redis.call('HGET', KEYS[5], key))
    end
    local added = spends[unit]
    if late then added = added - before[unit] else reserved = reserved - shares[count + i] end
    value = pack(BUCKET, start, finish_, since, add(spent, added), reserved)
    after[i] = value
    if key == KEYS[i + 7] then
      writes[#writes + 1], writes[#writes + 2] = key, value
    else
      closed[#closed + 1], closed[#closed + 2] = key, value
    end
  end
  local record = pack_record(state, r.lease, r.lease_end, r.made, now, actual, r.starts, r.kept)

  -- Nothing can fail from here.
  local marker = append(version, seq, now, due, head, state, ARGV[1], actual, late and r.charged or '', r.starts, r.kept,
    detail)
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  redis.call('SET', KEYS[7], record, 'PX', KEEP[state] + math.ceil(r.lease / 500))
  redis.call('MSET', KEYS[1], marker, unpack(writes))
  if not late then redis.call('ZREM', KEYS[2], ARGV[1]) end
  return { 'ended', now, version, table.concat(after), made == r.made and actual or record }
end

-- Add a cost to spent that no stored reservation stands for, and remember its id. Buckets: start, end, since, spent,
-- reserved of each pool. Kind: r(econciled) or b(ooked by a record).
local function book(version, seq, now, due, head, values, buckets, kind, actual, kept, names)
  local spends, count = figures(actual), #buckets
  local starts, before, after, writes, closed, opened = {}, {}, {}, {}, {}, false
  for i, bucket in ipairs(buckets) do
    local value, unit = values[i + 2], struct.unpack('<d', kept, OFFSET - 2 + 8 * i)
    local newest = value and struct.unpack('<d', value)
    starts[i], before[i] = bucket[1], value
    after[i] = struct.pack(BUCKET, bucket[1], bucket[2], bucket[3], add(bucket[4], spends[unit]), bucket[5])
    opened = opened or not newest or newest < bucket[1]
    local old = newest and bucket[1] < newest
    local list = old and closed or writes
    list[#list + 1], list[#list + 2] = old and closed_field(KEYS[i + 7], bucket[1]) or KEYS[i + 7], after[i]
  end
  local packed = struct.pack('<' .. string.rep('d', count), unpack(starts))
  local record = pack_record('r', 0, now, now, now, actual, packed, kept)
  if opened then check_windows(before) end

  -- Nothing can fail from here.
  local marker = append(version, seq, now, due, head, kind, ARGV[1], actual, '', packed, kept, '')
  if opened then open_windows(before, starts, names) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  redis.call('SET', KEYS[7], record, 'PX', KEEP.r)
  redis.call('MSET', KEYS[1], marker, unpack(writes))
  return { 'booked', now, version, table.concat(after), record }
end
