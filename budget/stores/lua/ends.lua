-- How a reservation ends, and how spend is booked that had none, as in ends.py.

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

-- Five figures that a caller asked for.
local function asked(kept)
  local form = string.byte(kept, 24)
  if form == 0 or form == 255 then return figures(string.sub(kept, 17, 56)) end
  if form % 8 >= 4 then return figures(string.sub(kept, 26, 65)) end
  local money, _, total, input, output, requests = struct.unpack('<I7I2I4I4I4B', kept, 17)
  return { [0] = money, total, input, output, requests, 0 }
end

-- What an open reservation still holds: all of it but what a slice has given back.
local function rest(r)
  local kept, form, numbers = r.kept, string.byte(r.kept, 24), asked(r.kept)
  if r.state == 'o' and r.charged ~= NOTHING then
    local given = figures(r.charged)
    for unit = 0, 4 do numbers[unit] = numbers[unit] - given[unit] end
  elseif form == 0 or form == 255 then
    return string.sub(kept, 17, 56)
  elseif form % 8 >= 4 then
    return string.sub(kept, 26, 65)
  end
  return struct.pack('<i8i8i8i8i8', numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
end

-- Figures that were not said (-1) are those that are still reserved.
local function complete(actual, r)
  if not string.find(actual, '\255\255\255\255\255\255\255\255', 1, true) then return actual end
  local whole, kept = {}, rest(r)
  for i = 1, 5 do
    local from = 8 * i - 7
    local said = struct.unpack('<i8', actual, from) >= 0
    whole[i] = string.sub(said and actual or kept, from, from + 7)
  end
  return table.concat(whole)
end

-- As a caller writes them, who says by a zero that they are of 12 bytes each.
local function read_ids(kept)
  local form, _, _, from, width = layout(kept)
  local ids = string.sub(kept, from, from + width - 1)
  return form % 16 >= 8 and '\0' .. ids or ids
end

-- The answer to an end that came before, or whose caller thinks of other pools; nil if it may be carried out.
local function barred(marker, now, record, r, ids, same)
  if r.state == 'r' or r.state == 'f' then return { same and 'repeated' or 'conflict', now, marker, record } end
  if read_ids(r.kept) ~= ids then return { 'pools', now, marker, record } end
  return nil
end

-- Units and amounts of the shares of what was kept, and where their windows start. Lists begin at the size that they
-- will have.
local function read_shares(r)
  local kept, packed = r.kept, r.starts
  local form, count, from, ids = layout(kept)
  local units, amounts, starts = nil, { unpack(KEYS, 8) }, nil
  if form == 0 then
    units = { struct.unpack('<' .. string.rep('d', count), kept, 63) }
  elseif form % 32 < 16 then
    units = { string.byte(kept, from, from + count - 1) }
  else
    local unit = string.byte(kept, from)
    units = { unpack(KEYS, 8) }
    for i = 1, count do units[i] = unit end
  end
  if form % 128 >= 64 then
    local whole = asked(kept)
    whole[CONCURRENT] = 1
    for i = 1, count do amounts[i] = whole[units[i]] end
  elseif form % 64 >= 32 then
    for i = 1, count do amounts[i] = 0 end
  else
    amounts = { struct.unpack('<' .. string.rep('d', count), kept, ids - 8 * count) }
  end
  if #packed == 8 * count then
    starts = { struct.unpack('<' .. string.rep('d', count), packed) }
  else
    local marks, a, b, c, d = struct.unpack(count <= 8 and '<I2I7I7I7I7' or '<I6I7I7I7I7', packed .. NOTHING)
    starts = { unpack(KEYS, 8) }
    for i = 1, count do
      local mark = marks % 4
      starts[i], marks = mark == 0 and a or mark == 1 and b or mark == 2 and c or d, (marks - mark) / 4
    end
  end
  return units, amounts, starts
end

-- Move a bucket that is not the newest, or a part of a rolling pool: what the pool shows then, and the write, if it is for
-- the pool's own key. A part that is gone moves nothing.
local function move_other(key, value, start, added, freed, now, closed)
  if value and #value > 48 then
    local parts, span, since = rolling().read(value)
    local i = rolling().find(parts, start)
    if i then parts[i + 1], parts[i + 2] = add(parts[i + 1], added), parts[i + 2] - freed end
    return rolling().shown(parts, span, since, now), i and rolling().write(parts, span, since)
  end
  key = closed_field(key, start)
  local start_, finish, since, spent, reserved, carry = read_bucket(redis.call('HGET', KEYS[5], key))
  value = struct.pack(BUCKET, start_, finish, since, add(spent, added), reserved - freed, carry)
  closed[#closed + 1], closed[#closed + 2] = key, value
  return value, nil
end

-- Move the buckets of all shares: what their pools show then, which takes the place of their starts, and what is to be
-- written.
local function move(values, starts, count, units, spends, before, freed, now)
  local writes, closed, n = { KEYS[1], unpack(KEYS) }, {}, 0
  local KEYS, pack, unpack_ = KEYS, struct.pack, struct.unpack
  for i = 1, count do
    local unit, value, own = units[i], values[i + 2], nil
    local added = spends[unit]
    if before then added = added - before[unit] end
    local start, finish, since, spent, reserved, carry
    if value and #value <= 48 then
      if #value == 40 then value = value .. NO_CARRY end
      start, finish, since, spent, reserved, carry = unpack_(BUCKET, value)
    end
    if start == starts[i] then
      if spent ~= MAX then
        spent = spent + added
        if spent > MAX then spent = MAX end
      end
      own = pack(BUCKET, start, finish, since, spent, reserved - freed[i], carry)
      starts[i] = own
    else
      starts[i], own = move_other(KEYS[i + 7], value, starts[i], added, freed[i], now, closed)
    end
    if own then
      writes[n + 1], writes[n + 2] = KEYS[i + 7], own
      n = n + 2
    end
  end
  return table.concat(starts, '', 1, count), writes, n, closed
end

-- Move an open reservation to its end, or correct an expired one by the difference. Who knows when it was made knows the
-- rest, and is not told it again. The lease is also known by the text that the key ends with: the first format wrote that.
local function finish(version, seq, now, due, head, values, r, state, actual, detail, made)
  local late, count = r.state == 'x', #KEYS - 7
  local units, amounts, starts = read_shares(r)
  local given = not late and r.charged ~= NOTHING and figures(r.charged)
  local freed, places = amounts, r.starts
  if late then
    for i = 1, count do freed[i] = 0 end
  end
  if given then
    for i = 1, count do freed[i] = freed[i] - math.min(given[units[i]], freed[i]) end
    places = places .. struct.pack('<' .. string.rep('d', count), unpack(freed, 1, count))
  end
  local after, writes, n, closed =
    move(values, starts, count, units, figures(actual), late and figures(r.charged), freed, now)
  local record = pack_record(state, r.lease, r.lease_end, r.made, now, actual, r.starts, r.kept)

  -- Nothing can fail from here.
  local marker = append(version, seq, now, due, head, state, ARGV[1], actual, late and r.charged or '', places, r.kept,
    detail)
  if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
  redis.call('SET', KEYS[7], record, 'PX', KEEP[state] + math.ceil(r.lease / 500))
  redis.call('MSET', KEYS[1], marker, unpack(writes, 1, n))
  if not late then redis.call('ZREM', KEYS[2], ARGV[1], pool_id(KEYS[7])) end
  return { 'ended', now, marker, after, made == r.made and actual or record }
end
