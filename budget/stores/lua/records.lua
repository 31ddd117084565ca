-- Reservations and the windows they were taken from.

-- A reservation: o(pen), r(econciled), f (refunded) or x (expired); its lease; what its end charged (of an open slice: what
-- it has given back); where the windows of its pools start; and what was kept of the request.
local function pack_record(state, lease, lease_end, made, ended, charged, starts, kept)
  return struct.pack('<c1ddddI2', state, lease, lease_end, made, ended, #starts) .. charged .. starts .. kept
end

local function read_record(record)
  local state, lease, lease_end, made, ended, width = struct.unpack('<c1ddddI2', record)
  return {
    state = state, lease = lease, lease_end = lease_end, made = made, ended = ended,
    charged = string.sub(record, 36, 75), starts = string.sub(record, 76, 75 + width),
    kept = string.sub(record, 76 + width),
  }
end

-- The ids of the pools.
local function read_ids(kept)
  local count, width = struct.unpack('<I2I2', kept, OFFSET)
  local from = OFFSET + 6 + 16 * count
  return string.sub(kept, from, from + width - 1)
end

local function asked_digest(kept)
  local count, width, length = struct.unpack('<I2I2I2', kept, OFFSET)
  local from = OFFSET + 6 + 16 * count + width
  return string.sub(kept, from, from + length - 1)
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

-- The byte and the text of each shadow draw that would have refused; the texts are the lines after the first.
local function shadow_texts(which, lines)
  local told, i = {}, 0
  for text in string.gmatch(string.match(lines, '\n(.*)') .. '\n', '([^\n]*)\n') do
    i = i + 1
    if string.find(which, string.char(i), 1, true) then told[#told + 1] = string.char(i) .. text .. '\n' end
  end
  return table.concat(told)
end
