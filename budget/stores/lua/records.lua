-- Reservations, and what was kept of the request for one.

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
  local units, width, length = form % 8 >= 4 and 66 or 39, 12 * count, 16
  if form % 16 < 8 then
    width, length = struct.unpack('<I2I2', kept, units)
    units = units + 4
  end
  local ids = units + (form % 32 >= 16 and 1 or count) + (form % 128 >= 32 and 0 or 8 * count)
  return form, count, units, ids, width, length
end

local function pool_id(key)
  return string.sub(key, #KEYS[1] + 2)
end

local function closed_field(key, start)
  return pool_id(key) .. string.format(':%d', start)
end
