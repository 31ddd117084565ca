-- Stands before every verb. The verbs are those of pool.py, with the same names and the same order of checks; read them
-- side by side. A verb reads and checks; below "Nothing can fail from here" it writes.
--
-- Numbers are doubles, exact up to 2^53 - 1, and are packed as such (d). Only the five figures of a request or an end are
-- 8-byte integers (i8), for those of an end may be larger: they stay the bytes that came, and only counters, which stop at
-- MAX, are computed with. Comparisons admit, never refuse, so that what is not a number is refused.
--
-- marker   version, sequence, clock, earliest lease end (a lower bound), 40 hex digits of the last entry's digest
-- pool     start, end, since, spent, reserved of the newest bucket; older ones are in the hash of closed windows
-- kept     what a caller asked, as it came: 16 bytes of digest that stand for the rest, amounts, and from OFFSET on how
--          many pools, the lengths of their ids and of the idempotency digest; units, amounts, ids, digest, body

local MAX = 9007199254740991
local CLOCK_BACK = 5000000
local SWEEP = 64
local CONCURRENT = 5
local BUCKET = '<ddddd'
local NOTHING = string.rep('\0', 40)
local OFFSET = 57

local function read_marker(value)
  if not value then return 0, 0, 0, MAX, string.rep('0', 40) end
  local version, seq, clock, due = struct.unpack('<dddd', value)
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
local function look_at_leases(due, now, version)
  if now < due then return due, nil end
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  due = tonumber(first[2] or MAX)
  if now < due then return due, nil end
  local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now), 'LIMIT', 0, SWEEP)
  return due, { 'due', now, version, unpack(ids) }
end

-- How most verbs begin: the marker and the instant; and the answer, if leases that have ended come first.
local function enter(marker, given, swept)
  local version, seq, clock, due, head = read_marker(marker)
  local now, answer = instant(given, clock), nil
  if swept == 0 then due, answer = look_at_leases(due, now, version) end
  return answer, version, seq, now, due, head
end

-- The bucket of a window that begins, after one that ended at `ended` (nil: the pool's first): start, end, since, spent,
-- reserved. Nil if the window that the caller means, packed as (start, end, since), is not the present one.
local function open_window(ended, now, windows, at)
  local start, finish, since = struct.unpack('<ddd', windows, at)
  if not (start <= now and now < finish) then return nil end
  if not ended then return start, finish, math.max(start, math.min(since, now)), 0, 0 end
  start = math.max(start, ended)
  return start, finish, start, 0, 0
end

-- Append an entry and return the account's new marker. An entry is a head, the figures of an end, those it replaces (of
-- a correction), where the windows of its pools start, what was kept of the caller's request, and more detail. It is
-- chained to the one before by SHA-1; what was kept and the detail stand in the chain by their first 16 bytes.
local function append(version, seq, now, due, head, kind, id, after, before, starts, kept, detail)
  seq = string.format('%d', seq + 1)
  local entry = struct.pack('<c1dBBBI2I4', kind, now, #id, #after, #before, #starts, #detail)
    .. id .. after .. before .. starts
  head = redis.sha1hex(head .. seq .. '\n' .. entry .. string.sub(kept, 1, 16) .. string.sub(detail, 1, 16))
  redis.call('XADD', KEYS[3], seq .. '-0', 'e', entry .. detail .. kept, 'h', head)
  return struct.pack('<dddd', version, tonumber(seq), now, due) .. head
end
