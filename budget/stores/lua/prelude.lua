-- Stands before every verb. The verbs are those of pool.py and ends.py, with the same names and the same order of checks;
-- read them side by side. A verb reads and checks; below "Nothing can fail from here" it writes.
--
-- Numbers are doubles, exact up to 2^53 - 1, and are packed as such (d). Only the five figures of a request or an end are
-- 8-byte integers (i8), for those of an end may be larger: they stay the bytes that came, and only counters, which stop at
-- MAX, are computed with. Comparisons admit, never refuse, so that what is not a number is refused.
--
-- marker   two that are not numbers, clock, earliest lease end (a lower bound), format, policy version, sequence, epoch, 40
--          hex digits of the last entry's digest. Scripts of the first format had version and sequence in front: they now
--          answer stale_policy, or stop at an entry with an impossible number, and write nothing. A marker of a later
--          format keeps the first five, and is no shorter. The epoch tells this account from another of its name: it is made of the digest of
--          its first entry, and above 40 bits it counts how often an operator has declared it whole again.
-- pool     its newest bucket: start, end, since, spent, reserved, carry (before format 2 no carry); older ones are in the
--          hash of closed windows. Of a rolling pool the newest part, its span, and start, spent, reserved of older parts
-- kept     what a caller asked, as it came: 16 bytes of digest that stand for the rest, 7 of the money, a byte that says
--          in which form the rest is, how many pools, the other amounts, units, what each pool took, the pools' ids, the
--          idempotency digest, body: see `layout`

local FORMAT = 2
local MAX = 9007199254740991
local EPOCHS = 1099511627776
local CLOCK_BACK = 5000000
local SWEEP = 64
local CONCURRENT = 5
local BUCKET = '<dddddd'
local NO_CARRY = '\0\0\0\0\0\0\0\0'
local NO_BUCKET = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local NOTHING = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local GUARD = '\0\0\0\0\0\0\248\127\0\0\0\0\0\0\248\127'

local epoch = 0

local function read_marker(value)
  if not value then return 0, 0, 0, MAX, '0000000000000000000000000000000000000000' end
  if #value == 72 then
    local version, seq, clock, due = struct.unpack('<dddd', value)
    return version, seq, clock, due, string.sub(value, 33)
  end
  local clock, due, format, version, seq, own = struct.unpack('<dddddd', value, 17)
  if format ~= FORMAT then error({ err = 'NEWER the account was written by a newer version of this package' }) end
  epoch = own
  return version, seq, clock, due, string.sub(value, 65)
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
local function look_at_leases(due, now, marker)
  if now < due then return due, nil end
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  due = tonumber(first[2] or MAX)
  if now < due then return due, nil end
  local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now), 'LIMIT', 0, SWEEP)
  return due, { 'due', now, marker or '', unpack(ids) }
end

-- How most verbs begin: the marker and the instant; and the answer, if leases that have ended come first.
local function enter(marker, given, swept)
  local version, seq, clock, due, head = read_marker(marker)
  local now, answer = instant(given, clock), nil
  if swept == 0 then due, answer = look_at_leases(due, now, marker) end
  return answer, version, seq, now, due, head
end

-- Append an entry and return the account's new marker. An entry is a head, the figures of an end (of a reserve: byte and
-- text of each shadow draw that would have refused), those it replaces (of a correction), where the windows of its pools
-- start and, if it is not what the reservation took, what it gave back to each; what was kept of the caller's request, and
-- more detail. It is chained to the one before by SHA-1; what was kept and the detail stand in the chain by their first 16
-- bytes.
local function append(version, seq, now, due, head, kind, id, after, before, starts, kept, detail)
  local number = string.format('%d', seq + 1)
  local entry = struct.pack('<c1dBI2BI2I4', kind, now, #id, #after, #before, #starts, #detail)
    .. id .. after .. before .. starts
  head = redis.sha1hex(head .. number .. '\n' .. entry .. string.sub(kept, 1, 16) .. string.sub(detail, 1, 16))
  redis.call('XADD', KEYS[3], number .. '-0', 'E', entry .. detail .. kept, 'h', head)
  if epoch % EPOCHS == 0 then epoch = epoch + tonumber(string.sub(head, 1, 10), 16) end
  return GUARD .. struct.pack('<dddddd', now, due, FORMAT, version, seq + 1, epoch) .. head
end
