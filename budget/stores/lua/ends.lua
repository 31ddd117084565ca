-- How a reservation ends, and how spend is booked that had none.

local KEEP = { r = 3600000, f = 3600000, x = 604800000 }

-- A counter that would pass MAX stays there, and refuses every amount above zero.
local function add(counter, amount)
  if counter == MAX then return MAX end
  return math.min(counter + amount, MAX)
end

-- What an end adds to spent, of a unit: what was not said and a slot are nothing.
local function spends(unit, amounts)
  if unit == CONCURRENT then return 0 end
  return math.max(0, (struct.unpack('<i8', amounts, 8 * unit + 1)))
end

-- Figures that were not said (-1) are those that were reserved.
local function complete(actual, amounts)
  local figures = {}
  for i = 1, 5 do
    local from = 8 * i - 7
    local given = struct.unpack('<i8', actual, from) < 0 and amounts or actual
    figures[i] = string.sub(given, from, from + 7)
  end
  return table.concat(figures)
end

-- The answer to an end that came before, or whose pools are not the keys given; nil if it may be carried out.
local function barred(m, now, record, r, same)
  if r.state == 'r' or r.state == 'f' then return { same and 'repeated' or 'conflict', now, m.version, record } end
  local ids = {}
  for i = 8, #KEYS do ids[i - 7] = pool_id(KEYS[i]) end
  local _, own = read_shares(r.shares)
  if table.concat(ids, '\n') ~= own then return { 'pools', now, m.version, record } end
  return nil
end

-- Move an open reservation to its end, or correct an expired one by the difference.
local function finish(m, now, values, id, r, state, kind, actual, detail)
  local late = r.state == 'x'
  local before = late and r.charged or NOTHING
  local shares = read_shares(r.shares)
  local after, writes, closed = {}, {}, {}
  for i, share in ipairs(shares) do
    local value, where = values[i + 2], nil
    if not value or struct.unpack('<i8', value) ~= share.start then
      where = pool_id(KEYS[i + 7]) .. string.format(':%.0f', share.start)
      value = redis.call('HGET', KEYS[5], where)
    end
    local s, e, c, spent, reserved = struct.unpack('<i8i8i8i8i8', value)
    spent = add(spent, spends(share.unit, actual) - spends(share.unit, before))
    after[i] = struct.pack('<i8i8i8i8i8', s, e, c, spent, late and reserved or reserved - share.amount)
    local list = where and closed or writes
    list[#list + 1], list[#list + 2] = where or KEYS[i + 7], after[i]
  end

  -- Nothing can fail from here.
  append(m, KEYS[3], now, kind, id, actual, late and before or '', r.shares, r.body, detail)
  if not late then redis.call('ZREM', KEYS[2], id) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  local record = pack_record(state, r.lease, r.lease_end, r.made, now, r.amounts, actual, r.shares, r.digest, r.body)
  redis.call('SET', KEYS[7], record, 'PX', string.format('%.0f', KEEP[state] + math.ceil(r.lease / 500)))
  redis.call('MSET', KEYS[1], write_marker(m), unpack(writes))
  return { kind, now, m.version, table.concat(after), record }
end

-- Add a cost to spent that no stored reservation stands for, and remember its id. Buckets: start, end, since, spent,
-- reserved of each pool.
local function book(m, now, values, buckets, kind, id, actual, taken, ids, digest, body, names)
  -- Nothing can fail from here.
  local starts, after, writes, closed, new = {}, {}, {}, {}, false
  for i, bucket in ipairs(buckets) do
    local s, e, c, spent, reserved = unpack(bucket)
    local unit = struct.unpack('<i8', taken, 16 * i - 15)
    starts[i] = s
    after[i] = struct.pack('<i8i8i8i8i8', s, e, c, add(spent, spends(unit, actual)), reserved)
    local newest = values[i + 2] and struct.unpack('<i8', values[i + 2])
    new = new or not newest
    if newest and s < newest then
      closed[#closed + 1], closed[#closed + 2] = pool_id(KEYS[i + 7]) .. string.format(':%.0f', s), after[i]
    else
      writes[#writes + 1], writes[#writes + 2] = KEYS[i + 7], after[i]
    end
  end
  local shares = pack_shares(starts, taken, ids)
  append(m, KEYS[3], now, kind, id, actual, '', shares, body, '')
  if new then name_pools(KEYS[6], ids, names) end
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  for i, start in ipairs(starts) do
    if not values[i + 2] or start > struct.unpack('<i8', values[i + 2]) then
      close_window(KEYS[5], KEYS[i + 7], values[i + 2], start)
    end
  end
  local record = pack_record('r', 0, now, now, now, actual, actual, shares, digest, body)
  redis.call('SET', KEYS[7], record, 'PX', KEEP.r)
  redis.call('MSET', KEYS[1], write_marker(m), unpack(writes))
  return { kind, now, m.version, table.concat(after), record }
end
