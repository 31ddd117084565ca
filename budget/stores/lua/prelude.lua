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

local function read_marker(value)
  if not value then return { version = 0, seq = 0, clock = 0, due = MAX, head = string.rep('0', 40) } end
  local version, seq, clock, due = struct.unpack('<i8i8i8i8', value)
  return { version = version, seq = seq, clock = clock, due = due, head = string.sub(value, 33) }
end

local function write_marker(m)
  return struct.pack('<i8i8i8i8', m.version, m.seq, m.clock, m.due) .. m.head
end

-- The present instant (given: a scratch account's own), never before the account's clock, and how far it is behind.
local function instant(given, m)
  local now = given
  if now < 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
  end
  if now < m.clock then return m.clock, m.clock - now end
  return now, 0
end

-- The ids of reservations whose lease has ended; nil if there are none. The caller expires them and comes again.
local function due(leases, m, now)
  if now < m.due then return nil end
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  m.due = tonumber(first[2] or MAX)
  if now < m.due then return nil end
  local ids = redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('%.0f', now), 'LIMIT', 0, SWEEP)
  return { 'due', now, m.version, unpack(ids) }
end

-- A pool's bucket now: start, end, since, spent, reserved; nil if the caller's window is not the present one.
local function present(value, now, start, finish, since)
  if value then
    local s, e, c, spent, reserved = struct.unpack('<i8i8i8i8i8', value)
    if now < e then return s, e, c, spent, reserved end
    if not (start <= now and now < finish) then return nil end
    start = math.max(start, e)
    return start, finish, start, 0, 0
  end
  if not (start <= now and now < finish) then return nil end
  return start, finish, math.max(start, math.min(since, now)), 0, 0
end

-- Append an entry: its content is chained to the one before by SHA-1. Of body and detail, whose first 16 bytes are
-- their digest, those stand for all. An explicit id can be refused, so this is the first write of every verb.
local function append(m, stream, now, kind, id, after, before, shares, body, detail)
  m.seq, m.clock = m.seq + 1, now
  local seq, at = string.format('%.0f', m.seq), string.format('%.0f', now)
  local content = { seq, at, kind, id, #after, #before, #shares, after .. before .. shares
    .. string.sub(body, 1, 16) .. string.sub(detail, 1, 16) }
  m.head = redis.sha1hex(m.head .. table.concat(content, '\n'))
  redis.call('XADD', stream, seq .. '-0', 'k', kind, 't', at, 'r', id, 'a', after, 'p', before, 's', shares,
    'b', body, 'd', detail, 'h', m.head)
end
