-- Reservations and the windows they were taken from.

-- The pools of a reservation: how many, where their windows start, (unit, amount) of each as it came, their ids.
local function pack_shares(starts, taken, ids)
  return struct.pack('<I2' .. string.rep('i8', #starts), #starts, unpack(starts)) .. taken .. ids
end

local function read_shares(shares)
  local count = struct.unpack('<I2', shares)
  local numbers = { struct.unpack('<' .. string.rep('i8', 3 * count), shares, 3) }
  local found = {}
  for i = 1, count do
    found[i] = { start = numbers[i], unit = numbers[count + 2 * i - 1], amount = numbers[count + 2 * i] }
  end
  return found, string.sub(shares, 3 + 24 * count)
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

-- The first time that a pool is written, remember what its id stands for.
local function name_pools(names, ids, texts)
  local text = string.gmatch(texts, '[^\n]+')
  for id in string.gmatch(ids, '[^\n]+') do redis.call('HSETNX', names, id, text()) end
end

-- Where a pool's newest window is no longer the one that is written now, keep it among the closed ones.
local function close_window(closed, key, value, start)
  if value and struct.unpack('<i8', value) ~= start then
    redis.call('HSET', closed, pool_id(key) .. string.format(':%.0f', (struct.unpack('<i8', value))), value)
  end
end
