-- The windows of a pool, as in buckets.py.

local PARTS = 60

local function read_bucket(value)
  return struct.unpack(BUCKET, #value == 40 and value .. NO_CARRY or value)
end

-- What is asked of a rolling pool, which is more than 48 bytes. Its parts are a list of start, spent, reserved, the newest
-- last. Made when the first one is met: a script makes its functions anew each time that it runs.
local made

local function rolling()
  if made then return made end
  local pool = {}
  made = pool

  function pool.read(value)
    local start, _, since, spent, reserved, _, span = struct.unpack('<ddddddd', value)
    local width = (#value - 56) / 8
    local parts = { struct.unpack('<' .. string.rep('d', width), value, 57) }
    parts[width + 1], parts[width + 2], parts[width + 3] = start, spent, reserved
    return parts, span, since
  end

  function pool.write(parts, span, since)
    local n = #parts
    return struct.pack('<ddddddd', parts[n - 2], parts[n - 2] + math.ceil(span / PARTS), since, parts[n - 1], parts[n], 0, span)
      .. struct.pack('<' .. string.rep('d', n - 3), unpack(parts, 1, n - 3))
  end

  -- Start, end, since, spent, reserved, carry of what a rolling pool shows of itself; nil if no part counts any more.
  function pool.view(parts, span, since, now)
    local size, from, spent, reserved = math.ceil(span / PARTS), nil, 0, 0
    for i = 1, #parts, 3 do
      if parts[i] + size > now - span then
        from = from or parts[i]
        spent, reserved = spent + parts[i + 1], reserved + parts[i + 2]
      end
    end
    if not from then return nil end
    return from, parts[#parts - 2] + size + span, since, math.min(spent, MAX), math.min(reserved, MAX), 0
  end

  function pool.shown(parts, span, since, now)
    local start, finish, since_, spent, reserved, carry = pool.view(parts, span, since, now)
    return start and struct.pack(BUCKET, start, finish, since_, spent, reserved, carry) or NO_BUCKET
  end

  -- The first instant at which an amount would fit if nothing else happened.
  function pool.freed_at(parts, span, now, amount, limit)
    local size, used, last = math.ceil(span / PARTS), 0, #parts - 2
    for i = 1, last, 3 do
      if parts[i] + size > now - span then used = used + parts[i + 1] + parts[i + 2] end
    end
    for i = 1, last, 3 do
      if parts[i] + size > now - span then
        used = used - parts[i + 1] - parts[i + 2]
        if amount <= limit - used then return parts[i] + size + span end
      end
    end
    return parts[last] + size + span
  end

  -- Where in the list the part stands that starts then.
  function pool.find(parts, start)
    for i = #parts - 2, 1, -3 do
      if parts[i] == start then return i end
    end
    return nil
  end

  -- Insert a part; one that opens takes the place of those that no longer count.
  local function add_part(parts, start, size, span, now)
    local n = #parts
    if n == 0 or parts[n - 2] < start then
      local kept = {}
      for i = 1, n, 3 do
        if parts[i] + size > now - span then
          kept[#kept + 1], kept[#kept + 2], kept[#kept + 3] = parts[i], parts[i + 1], parts[i + 2]
        end
      end
      n = #kept
      kept[n + 1], kept[n + 2], kept[n + 3] = start, 0, 0
      return kept, n + 1
    end
    local at = 1
    while parts[at] < start do at = at + 3 end
    for _, number in ipairs({ 0, 0, start }) do table.insert(parts, at, number) end
    return parts, at
  end

  -- The parts of a rolling pool with the one that holds an instant: the list, where that stands in it (nil: it no longer
  -- counts), when it starts, span and since. `value` may be nil.
  function pool.at(value, at, now, span, since)
    local parts, size, index = {}, math.ceil(span / PARTS), nil
    if value then parts, span, since = pool.read(value) else since = math.max(0, math.min(since, now)) end
    local start = at - at % size
    index = pool.find(parts, start)
    if not index and (not value or start + size > now - span) then parts, index = add_part(parts, start, size, span, now) end
    return parts, index, start, span, since
  end

  return pool
end
