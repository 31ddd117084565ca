-- Reservations and the windows they were taken from.

-- A reservation: o(pen), r(econciled), f (refunded) or x (expired); its lease; when it was made and ended; what its end
-- charged (of an open slice: what it has given back); where the windows of its pools start; and what was kept of the
-- request. An open one that has given nothing back is a p, which leaves out two of them.
local function pack_record(state, lease, lease_end, made, ended, charged, starts, kept)
  if state == 'o' and charged == NOTHING then
    return struct.pack('<c1dddI2', 'p', lease, lease_end, made, #starts) .. starts .. kept
  end
  return struct.pack('<c1ddddI2', state, lease, lease_end, made, ended, #starts) .. charged .. starts .. kept
end

local function read_record(record)
  local from, ended, charged = 28, 0, NOTHING
  local state, lease, lease_end, made, width = struct.unpack('<c1dddI2', record)
  if state == 'p' then
    state = 'o'
  else
    ended, width = struct.unpack('<dI2', record, 26)
    from, charged = 76, string.sub(record, 36, 75)
  end
  return {
    state = state, lease = lease, lease_end = lease_end, made = made, ended = ended, charged = charged,
    starts = string.sub(record, from, from + width - 1), kept = string.sub(record, from + width),
  }
end

-- Where in what was kept the ids of the pools stand, the bytes of these and of the digest of what the caller asked.
local function layout(kept)
  local shape, width, length = struct.unpack('<I2I2I2', kept, OFFSET)
  local count = shape % 8192
  local each = shape == count and 16 or shape < COMPACT + 8192 and 9 or 1
  return OFFSET + 6 + each * count, width, length
end

local function read_ids(kept)
  local from, width = layout(kept)
  return string.sub(kept, from, from + width - 1)
end

-- As text: the first format had no other.
local function asked_digest(kept)
  local from, width, length = layout(kept)
  local digest = string.sub(kept, from + width, from + width + length - 1)
  if string.byte(digest) ~= 0 then return digest end
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
