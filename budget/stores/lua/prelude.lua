-- Stands before every verb. The verbs are those of pool.py, with the same names and the same order of checks; read them
-- side by side. A verb reads and checks; below "Nothing can fail from here" it writes, the ledger first.
--
-- Numbers are doubles here, exact up to 2^53 - 1, and travel as 8-byte integers (i8). Amounts of an end may be larger:
-- they stay the bytes that came, and only counters, which stop at MAX, are computed with. Comparisons admit, never
-- refuse, so that what is not a number is refused.
--
-- Values: the marker is version, sequence, clock, earliest lease end (a lower bound), and 40 hex digits of the last
-- entry's digest. A pool is start, end, since, spent, reserved of its newest bucket; older ones are in the hash of
-- closed windows. A reservation is described in `read_record`.

local MAX = 9007199254740991
local CLOCK_BACK = 5000000
local SWEEP = 64
local CONCURRENT = 5
local NOTHING = string.rep('\0', 40)

local BUCKET = '<i8i8i8i8i8'

local function read_marker(value)
  if not value then return 0, 0, 0, MAX, string.rep('0', 40) end
  local version, seq, clock, due = struct.unpack('<i8i8i8i8', value)
  return version, seq, clock, due, string.sub(value, 33)
end

-- The present instant (given: a scratch account's own), never before the account's clock, and how far it is behind.
local function instant(given, clock)
  local now = given
  if now < 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
  end
  if now < clock then return clock, clock - now end
  return now, 0
end

-- When the earliest lease ends, and the answer to a caller who must expire some first, or nil.
local function look_at_leases(leases, due, now, version)
  if now < due then return due, nil end
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  due = tonumber(first[2] or MAX)
  if now < due then return due, nil end
  local ids = redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('%.0f', now), 'LIMIT', 0, SWEEP)
  return due, { 'due', now, version, unpack(ids) }
end

-- The bucket of a window that begins, after one that ended at `ended` (nil: the pool's first): start, end, since, spent,
-- reserved. Nil if the window that the caller means, the i-th of the packed (start, end, since), is not the present one.
local function open_window(ended, now, windows, i)
  local start, finish, since = struct.unpack('<i8i8i8', windows, 24 * i - 23)
  if not (start <= now and now < finish) then return nil end
  if not ended then return start, finish, math.max(start, math.min(since, now)), 0, 0 end
  start = math.max(start, ended)
  return start, finish, start, 0, 0
end

-- Append an entry and return the account's new marker. An entry says what it moved: the figures of an end, those it
-- replaces (of a correction), the pools. It is chained to the one before by SHA-1; of body and detail, whose first 16
-- bytes are their digest, those stand for all. An explicit id can be refused, so this is every verb's first write.
local function append(version, seq, now, due, head, kind, id, after, before, shares, body, detail)
  seq = string.format('%.0f', seq + 1)
  local at = string.format('%.0f', now)
  local moved = string.char(#after, #before) .. after .. before .. shares
  head = redis.sha1hex(head .. seq .. '\n' .. at .. '\n' .. kind .. '\n' .. id .. '\n' .. #moved .. '\n' .. moved
    .. string.sub(body, 1, 16) .. string.sub(detail, 1, 16))
  redis.call('XADD', KEYS[3], seq .. '-0', 'k', kind, 't', at, 'r', id, 'm', moved, 'b', body, 'd', detail, 'h', head)
  return struct.pack('<i8i8i8i8', version, tonumber(seq), now, due) .. head
end
