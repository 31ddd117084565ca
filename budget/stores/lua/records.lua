-- Reservations and the windows they were taken from.

-- The pools of a reservation: how many, where their windows start, their units and amounts as they came, their ids.
local function pack_shares(starts, count, taken, ids)
  return struct.pack('<I2' .. string.rep('i8', count), count, unpack(starts, 1, count)) .. taken .. ids
end

-- How many, one list of all starts, units and amounts, and the ids.
local function read_shares(shares)
  local count = struct.unpack('<I2', shares)
  return count, { struct.unpack('<' .. string.rep('i8', 3 * count), shares, 3) }, string.sub(shares, 3 + 24 * count)
end

-- A reservation: o(pen), r(econciled), f (refunded) or x (expired); what was asked for (amounts) and what its end
-- charged; then its shares, the digest of what the caller asked, and the body (scope and detail, opaque here).
local function pack_record(state, lease, lease_end, made, ended, amounts, charged, shares, digest, body)
  return struct.pack('<c1i8i8i8i8', state, lease, lease_end, made, ended) .. amounts .. charged
    .. struct.pack('<I2I2', #shares, #digest) .. shares .. digest .. body
end

local function read_record(record)
  local state, lease, lease_end, made, ended, amounts, charged, width, length =
    struct.unpack('<c1i8i8i8i8c40c40I2I2', record)
  local shares = 118 + width
  return {
    state = state, lease = lease, lease_end = lease_end, made = made, ended = ended, amounts = amounts,
    charged = charged, shares = string.sub(record, 118, shares - 1),
    digest = string.sub(record, shares, shares + length - 1), body = string.sub(record, shares + length),
  }
end

local function has_digest(record, digest)
  return read_record(record).digest == digest
end

local function pool_id(key)
  return string.sub(key, #KEYS[1] + 2)
end

local function closed_field(key, start)
  return pool_id(key) .. string.format(':%.0f', start)
end

-- Windows that begin: remember what the id of a new pool stands for, and keep the one that is over among the closed.
local function open_pools(values, after, count, ids, names)
  local name = string.gmatch(names, '[^\n]+')
  for id in string.gmatch(ids, '[^\n]+') do redis.call('HSETNX', KEYS[6], id, name()) end
  for i = 1, count do
    local value = values[i + 2]
    local start = value and struct.unpack('<i8', value)
    if start and start ~= struct.unpack('<i8', after[i]) then
      redis.call('HSET', KEYS[5], closed_field(KEYS[i + 7], start), value)
    end
  end
end
