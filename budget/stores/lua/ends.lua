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
local function complete(actual, amounts)
  if not string.find(actual, '\255\255\255\255\255\255\255\255', 1, true) then return actual end
  local whole = {}
  for i = 1, 5 do
    local from = 8 * i - 7
    local given = struct.unpack('<i8', actual, from) < 0 and amounts or actual
    whole[i] = string.sub(given, from, from + 7)
  end
  return table.concat(whole)
end

-- The answer to an end that came before, or whose pools are not the keys given; nil if it may be carried out.
local function barred(version, now, record, r, same)
  if r.state == 'r' or r.state == 'f' then return { same and 'repeated' or 'conflict', now, version, record } end
  local ids = {}
  for i = 8, #KEYS do ids[i - 7] = pool_id(KEYS[i]) end
  ids = table.concat(ids, '\n')
  if #ids > #r.shares or string.sub(r.shares, #r.shares - #ids + 1) ~= ids
      or struct.unpack('<I2', r.shares) ~= #KEYS - 7 then
    return { 'pools', now, version, record }
  end
  return nil
end

-- Move an open reservation to its end, or correct an expired one by the difference.
local function finish(version, seq, now, due, head, values, r, state, kind, actual, detail)
  local late = r.state == 'x'
  local count, shares = read_shares(r.shares)
  local spends, before = figures(actual), late and figures(r.charged)
  local after, writes, closed = {}, {}, {}
  for i = 1, count do
    local unit, amount = shares[count + i], shares[2 * count + i]
    local key, list, value = KEYS[i + 7], writes, values[i + 2]
    if not value or struct.unpack('<i8', value) ~= shares[i] then
      key, list = closed_field(key, shares[i]), closed
      value = redis.call('HGET', KEYS[5], key)
    end
    local start, finish_, since, spent, reserved = struct.unpack(BUCKET, value)
    local added = spends[unit] - (late and before[unit] or 0)
    after[i] = struct.pack(BUCKET, start, finish_, since, add(spent, added), late and reserved or reserved - amount)
    list[#list + 1], list[#list + 2] = key, after[i]
  end

  -- Nothing can fail from here.
  local marker =
    append(version, seq, now, due, head, kind, ARGV[1], actual, late and r.charged or '', r.shares, r.body, detail)
  if not late then redis.call('ZREM', KEYS[2], ARGV[1]) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  local record = pack_record(state, r.lease, r.lease_end, r.made, now, r.amounts, actual, r.shares, r.digest, r.body)
  redis.call('SET', KEYS[7], record, 'PX', string.format('%.0f', KEEP[state] + math.ceil(r.lease / 500)))
  redis.call('MSET', KEYS[1], marker, unpack(writes))
  return { kind, now, version, table.concat(after), record }
end

-- Add a cost to spent that no stored reservation stands for, and remember its id. Buckets: start, end, since, spent,
-- reserved of each pool.
local function book(version, seq, now, due, head, values, buckets, kind, actual, taken, ids, digest, body, names)
  local spends = figures(actual)
  local starts, after, writes, closed, opened = {}, {}, {}, {}, false
  for i, bucket in ipairs(buckets) do
    local start, finish_, since, spent, reserved = unpack(bucket)
    local value, unit = values[i + 2], struct.unpack('<i8', taken, 8 * i - 7)
    local newest = value and struct.unpack('<i8', value)
    starts[i] = start
    after[i] = struct.pack(BUCKET, start, finish_, since, add(spent, spends[unit]), reserved)
    opened = opened or not newest or newest < start
    if newest and start < newest then
      closed[#closed + 1], closed[#closed + 2] = closed_field(KEYS[i + 7], start), after[i]
    else
      writes[#writes + 1], writes[#writes + 2] = KEYS[i + 7], after[i]
    end
  end

  -- Nothing can fail from here.
  local shares = pack_shares(starts, #starts, taken, ids)
  local marker = append(version, seq, now, due, head, kind, ARGV[1], actual, '', shares, body, '')
  if opened then open_pools(values, after, #starts, ids, names) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  local record = pack_record('r', 0, now, now, now, actual, actual, shares, digest, body)
  redis.call('SET', KEYS[7], record, 'PX', KEEP.r)
  redis.call('MSET', KEYS[1], marker, unpack(writes))
  return { kind, now, version, table.concat(after), record }
end
