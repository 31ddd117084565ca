-- How a reservation ends, and how spend is booked that had none, as in ends.py.

local KEEP = { r = 3600000, f = 3600000, x = 604800000 }
local FREES_NOTHING = { 0, 0, 0, 0, 0, 0 }

-- A counter that would pass MAX stays there, and refuses every amount above zero.
local function add(counter, amount)
  if counter == MAX then return MAX end
  return math.min(counter + amount, MAX)
end

-- Five figures as numbers, a unit's behind its number; what was not said is 0, and a slot is never spent.
local function figures(amounts)
  local a, b, c, d, e = struct.unpack('<i8i8i8i8i8', amounts)
  return { a > 0 and a or 0, b > 0 and b or 0, c > 0 and c or 0, d > 0 and d or 0, e > 0 and e or 0, 0 }
end

-- Five figures that a caller asked for, and one slot.
local function asked(kept)
  local form, money, _, total, input, output, requests = string.byte(kept, 24), nil, nil, nil, nil, nil, nil
  if form == 0 or form == 255 then
    money, total, input, output, requests = struct.unpack('<i8i8i8i8i8', kept, 17)
  elseif form % 8 >= 4 then
    money, total, input, output, requests = struct.unpack('<i8i8i8i8i8', kept, 26)
  else
    money, _, total, input, output, requests = struct.unpack('<I7I2I4I4I4B', kept, 17)
  end
  return { money, total, input, output, requests, 1 }
end

-- What an open reservation still holds: all of it but what a slice has given back.
local function rest(r)
  local numbers = asked(r.kept)
  if r.state == 'o' and r.charged ~= NOTHING then
    local given = figures(r.charged)
    for i = 1, 5 do numbers[i] = math.max(numbers[i], 0) - given[i] end
  end
  return struct.pack('<i8i8i8i8i8', unpack(numbers, 1, 5))
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

-- Move the buckets of a reservation's shares. Of each share what was taken is freed, but for what its unit has given back
-- before (`gone`), and no more than its unit frees now (`frees`). Returns what the pools show then, what is to be written,
-- windows that were over, and what was freed, which a slice writes down. Lists begin at the size that they will have.
local function move(values, r, spends, before, gone, frees, now)
  local kept, packed, KEYS, byte, pack, unpack_ = r.kept, r.starts, KEYS, string.byte, struct.pack, struct.unpack
  local form, count, from, ids = layout(kept)
  local units, amounts, starts, whole, marks, a, b, c, d
  if form == 0 then units = { unpack_('<' .. string.rep('d', count), kept, 63) } end
  if form % 128 >= 64 then
    whole = asked(kept)
  elseif form % 64 < 32 then
    amounts = { unpack_('<' .. string.rep('d', count), kept, ids - 8 * count) }
  end
  if #packed == 8 * count then
    starts = { unpack_('<' .. string.rep('d', count), packed) }
  else
    marks, a, b, c, d = unpack_(count <= 8 and '<I2I7I7I7I7' or '<I6I7I7I7I7', packed .. NOTHING)
  end
  local step, freed, closed, n = form % 32 >= 16 and 0 or 1, {}, {}, 0
  local writes, shown = { KEYS[1], unpack(KEYS) }, { unpack(KEYS, 8) }
  for i = 1, count do
    local key, value, start, own = KEYS[i + 7], values[i + 2], nil, nil
    if starts then
      start = starts[i]
    else
      local mark = marks % 4
      marks, start = (marks - mark) / 4, mark == 0 and a or mark == 1 and b or mark == 2 and c or d
    end
    local unit = (units and units[i] or byte(kept, from + step * (i - 1))) + 1
    local added, free = spends[unit], whole and whole[unit] or amounts and amounts[i] or 0
    if before then added = added - before[unit] end
    if gone then free = free - math.min(gone[unit], free) end
    if frees then free = math.min(frees[unit], free) end
    if gone then freed[i] = free end
    local begins, finish, since, spent, reserved, carry
    if value and #value <= 48 then
      if #value == 40 then value = value .. NO_CARRY end
      begins, finish, since, spent, reserved, carry = unpack_(BUCKET, value)
    end
    if begins == start then
      if spent ~= MAX then
        spent = spent + added
        if spent > MAX then spent = MAX end
      end
      own = pack(BUCKET, start, finish, since, spent, reserved - free, carry)
      shown[i] = own
    else
      shown[i], own = move_other(key, value, start, added, free, now, closed)
    end
    if own then
      writes[n + 1], writes[n + 2] = key, own
      n = n + 2
    end
  end
  return table.concat(shown, '', 1, count), writes, n, closed, freed
end

-- Move an open reservation to its end, or correct an expired one by the difference. Who knows when it was made knows the
-- rest, and is not told it again. The lease is also known by the text that the key ends with: the first format wrote that.
local function finish(version, seq, now, due, head, values, r, state, actual, detail, made)
  local late, places = r.state == 'x', r.starts
  local before = late and figures(r.charged) or nil
  local gone = not late and r.charged ~= NOTHING and figures(r.charged) or nil
  local after, writes, n, closed, freed = move(values, r, figures(actual), before, gone, late and FREES_NOTHING, now)
  if gone then places = places .. struct.pack('<' .. string.rep('d', #freed), unpack(freed)) end
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
