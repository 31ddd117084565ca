-- Reservations and the windows they were taken from.

-- A reservation: o(pen), r(econciled), f (refunded) or x (expired); its lease; what its end charged; where the windows of
-- its pools start; and what was kept of the request.
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

-- The ids of the pools, and the digest of what the caller asked.
local function read_names(kept)
  local count, width, length = struct.unpack('<I2I2I2', kept, OFFSET)
  local from = OFFSET + 6 + 16 * count
  return string.sub(kept, from, from + width - 1), string.sub(kept, from + width, from + width + length - 1)
end

local function same_request(record, kept)
  local _, mine = read_names(read_record(record).kept)
  local _, yours = read_names(kept)
  return mine == yours
end

local function pool_id(key)
  return string.sub(key, #KEYS[1] + 2)
end

local function closed_field(key, start)
  return pool_id(key) .. string.format(':%d', start)
end

-- Windows that begin. First see that what is about to be written over or added to is of its type: MGET takes a value of
-- another type for none.
local function check_windows(before)
  redis.call('HLEN', KEYS[5])
  redis.call('HLEN', KEYS[6])
  for i = 1, #before do
    if not before[i] then redis.call('GET', KEYS[i + 7]) end
  end
end

-- Then remember what the id of a new pool stands for, and keep the window that is over among the closed.
local function open_windows(before, starts, names)
  local name = string.gmatch(names, '[^\n]+')
  for i = 1, #before do
    local value, text = before[i], name()
    local start = value and struct.unpack('<d', value)
    if not value then
      redis.call('HSETNX', KEYS[6], pool_id(KEYS[i + 7]), text)
    elseif start < starts[i] then
      redis.call('HSET', KEYS[5], closed_field(KEYS[i + 7], start), value)
    end
  end
end
