-- Windows that begin, and where those start that a reservation or a cost is in.

-- What a window that is over left unspent.
local function left(limit, spent, reserved, carry)
  return math.min(limit + carry, MAX) - spent - reserved
end

-- The bucket of a window that begins, after one that ended at `ended` (nil: the pool's first) and left so much. Nil if the
-- window that the caller means, packed as (start, end, since), is not the present one.
local function open_window(ended, unspent, now, windows, at, rollover)
  local start, finish, since = struct.unpack('<ddd', windows, at)
  if not (start <= now and now < finish) then return nil end
  if not ended then return start, finish, math.max(start, math.min(since, now)), 0, 0, 0 end
  if start <= ended then
    start, rollover = ended, math.min(rollover, math.max(0, unspent))
  end
  return start, finish, start, 0, 0, rollover
end

-- Where windows start, in as few bytes as may be: up to four that differ, and before them which of these it is, two bits
-- of each, in 2 bytes or 6. They are doubles where that is not less, if more differ, and of very many pools.
local function pack_starts(starts, count)
  local a, b, c, d, marks, place, short = starts[1], nil, nil, nil, 0, 1, count <= 24
  for i = 1, count do
    local start = starts[i]
    if start ~= a then
      b = b or start
      if start == b then
        marks = marks + place
      else
        c = c or start
        if start == c then
          marks = marks + 2 * place
        else
          d = d or start
          marks, short = marks + 3 * place, short and start == d
        end
      end
    end
    place = place * 4
  end
  local width = (count <= 8 and 2 or 6) + (d and 28 or c and 21 or b and 14 or 7)
  if not short or width >= 8 * count then
    return struct.pack('<' .. string.rep('d', count), unpack(starts, 1, count))
  end
  local format = count <= 8 and '<I2I7I7I7I7' or '<I6I7I7I7I7'
  return string.sub(struct.pack(format, marks, a, b or 0, c or 0, d or 0), 1, width)
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
