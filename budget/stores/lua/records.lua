-- Reservations and the windows they were taken from.

-- A reservation: o(pen), r(econciled), f (refunded) or x (expired); its lease; when it was made and ended; what its end
-- charged (of an open slice: what it has given back); where the windows of its pools start; and what was kept of the
-- request. An open one that was not renewed and has given nothing back is a p, which has only when it was made, and its
-- lease: what is open takes the server's memory.
local function pack_record(state, lease, lease_end, made, ended, charged, starts, kept)
  if state == 'o' and charged == NOTHING and lease_end == made + lease and lease < 1099511627776 and #starts < 256 then
    return struct.pack('<c1I7I5B', 'p', made, lease, #starts) .. starts .. kept
  end
  return struct.pack('<c1ddddI2', state, lease, lease_end, made, ended, #starts) .. charged .. starts .. kept
end

local function read_record(record)
  local from, ended, charged, lease_end, width = 15, 0, NOTHING, nil, nil
  local state, made, lease, width_ = struct.unpack('<c1I7I5B', record)
  if state == 'p' then
    state, lease_end, width = 'o', made + lease, width_
  else
    lease, lease_end, made, ended, width = struct.unpack('<ddddI2', record, 2)
    from, charged = 76, string.sub(record, 36, 75)
  end
  return {
    state = state, lease = lease, lease_end = lease_end, made = made, ended = ended, charged = charged,
    starts = string.sub(record, from, from + width - 1), kept = string.sub(record, from + width),
  }
end

-- Where windows start, in as few bytes as may be: those that differ, and before them which of these it is, two bits of
-- each. More than four, or those of a single pool or of very many, are doubles.
local function pack_starts(starts, count)
  local known, each, n, marks, place = {}, {}, 0, 0, 1
  for i = 1, count do
    local k = known[starts[i]]
    if not k then
      k, n = n, n + 1
      known[starts[i]], each[n] = k, starts[i]
    end
    marks, place = marks + k * place, place * 4
  end
  if count < 2 or count > 24 or n > 4 then return struct.pack('<' .. string.rep('d', count), unpack(starts, 1, count)) end
  return struct.pack('<I' .. math.ceil(count / 4) .. string.rep('I7', n), marks, unpack(each))
end

local function read_starts(packed, count)
  if #packed == 8 * count then return { struct.unpack('<' .. string.rep('d', count), packed) } end
  local width = math.ceil(count / 4)
  local starts = { struct.unpack('<I' .. width .. string.rep('I7', (#packed - width) / 7), packed) }
  local marks, each = starts[1], { unpack(starts, 2) }
  for i = 1, count do
    local k = marks % 4
    starts[i], marks = each[k + 1], (marks - k) / 4
  end
  return starts
end

-- The form of what was kept, how many pools, where their units and their ids begin, the bytes of these and of the digest
-- of what the caller asked. The form is 128 and: 64 each took the amount of its unit, 32 or nothing (else a double each
-- follows the units); 16 they have one unit in common; 8 the lengths of ids and digest are known (else they stand before
-- the units); 4 the amounts are 8 bytes each. In the first format, whose money had 8 bytes, it is what is left of that.
local function layout(kept)
  local form, count = string.byte(kept, 24, 25)
  if form == 0 or form == 255 then
    local count_, width_, length_ = struct.unpack('<I2I2I2', kept, 57)
    return 0, count_, 63, 63 + 16 * count_, width_, length_
  end
  local units, width, length = form % 8 >= 4 and 66 or 36, 12 * count, 16
  if form % 16 < 8 then
    width, length = struct.unpack('<I2I2', kept, units)
    units = units + 4
  end
  local ids = units + (form % 32 >= 16 and 1 or count) + (form % 128 >= 32 and 0 or 8 * count)
  return form, count, units, ids, width, length
end

-- As a caller writes them, who says by a zero that they are of 12 bytes each.
local function read_ids(kept)
  local form, _, _, from, width = layout(kept)
  local ids = string.sub(kept, from, from + width - 1)
  return form % 16 >= 8 and '\0' .. ids or ids
end

-- As text: the first format had no other.
local function asked_digest(kept)
  local form, _, _, from, width, length = layout(kept)
  local digest = string.sub(kept, from + width, from + width + length - 1)
  if form % 16 >= 8 then digest = '\0' .. digest elseif string.byte(digest) ~= 0 then return digest end
  return (string.gsub(string.sub(digest, 2), '.', function(c) return string.format('%02x', string.byte(c)) end))
end

local function same_request(record, kept)
  return asked_digest(read_record(record).kept) == asked_digest(kept)
end

local function pool_id(key)
  return string.sub(key, #KEYS[1] + 2)
end

local function closed_field(key, start)
  return pool_id(key) .. string.format(':%d', start)
end

-- Windows that begin. First see that what is about to be written over or added to is of its type: MGET takes a value of
-- another type for none.
local function check_windows(before, count)
  redis.call('HLEN', KEYS[5])
  redis.call('HLEN', KEYS[6])
  for i = 1, count do
    if not before[i] then redis.call('GET', KEYS[i + 7]) end
  end
end

-- Then remember what the id of a new pool stands for, and keep the window that is over among the closed.
local function open_windows(before, starts, count, names)
  local name = string.gmatch(names, '[^\n]+')
  for i = 1, count do
    local value, text = before[i], name()
    if not value then
      redis.call('HSETNX', KEYS[6], pool_id(KEYS[i + 7]), text)
    elseif #value <= 48 and value ~= NO_BUCKET then
      local start = struct.unpack('<d', value)
      if start < starts[i] then redis.call('HSET', KEYS[5], closed_field(KEYS[i + 7], start), value) end
    end
  end
end
