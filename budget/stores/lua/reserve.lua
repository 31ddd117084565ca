#!lua
-- Set aside an amount in every pool of the draws, or in none.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, lease, swept, pools, draws  3 limits, amounts  4 per draw: start, end, since
--       (pools, then caps)  5 units of the pools, their amounts  6 pool ids  7 amounts  8 digest  9 body  10 names  11 texts, frozen
-- reply repeated | conflict: record; stale_policy | stale_window | clock; due: id ...;
--       refused: buckets (of the draws that do not refuse: after it), draws that refuse; reserved: buckets

local given, asked, lease, swept, pools, count = struct.unpack('<i8i8i8i8i8i8', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local version, seq, clock, due, head = read_marker(values[1])
local now, behind = instant(given, clock)
if behind > CLOCK_BACK then return { 'clock', now, version } end
if swept == 0 then
  local answer
  due, answer = look_at_leases(KEYS[2], due, now, version)
  if answer then return answer end
end
local record = values[2]
if record then return { has_digest(record, ARGV[8]) and 'repeated' or 'conflict', now, version, record } end
if asked ~= version then return { 'stale_policy', now, version } end
local draws = { struct.unpack('<' .. string.rep('i8', 2 * count), ARGV[3]) }
local after, starts, refused, opened = {}, {}, '', false
for i = 1, count do
  local limit, amount, value = draws[i], draws[count + i], i <= pools and values[i + 2]
  local start, finish, since, spent, reserved
  if value then start, finish, since, spent, reserved = struct.unpack(BUCKET, value) end
  if not value or now >= finish then
    start, finish, since, spent, reserved = open_window(finish, now, ARGV[4], i)
    if not start then return { 'stale_window', now, version } end
    opened = opened or i <= pools
  end
  if amount == 0 or (amount >= 0 and amount <= limit - spent - reserved) then
    reserved = reserved + amount
  else
    refused = refused .. string.char(i)
  end
  starts[i], after[i] = start, struct.pack(BUCKET, start, finish, since, spent, reserved)
end
local frozen = string.find(ARGV[11], '^[^\n]')
if refused ~= '' or frozen then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 20000, string.format('%.0f-*', seq + 1), 't',
    string.format('%.0f', now), 'r', ARGV[1], 'b', ARGV[9], 'w', refused, 'i', ARGV[6], 'l', ARGV[11])
  return { 'refused', now, version, table.concat(after), refused }
end

-- Nothing can fail from here.
local shares = pack_shares(starts, pools, ARGV[5], ARGV[6])
local marker =
  append(version, seq, now, math.min(due, now + lease), head, 'reserved', ARGV[1], '', '', shares, ARGV[9], '')
redis.call('ZADD', KEYS[2], string.format('%.0f', now + lease), ARGV[1])
if opened then open_pools(values, after, pools, ARGV[6], ARGV[10]) end
local writes = {}
for i = 1, pools do writes[2 * i - 1], writes[2 * i] = KEYS[i + 7], after[i] end
redis.call('MSET', KEYS[1], marker, KEYS[7],
  pack_record('o', lease, now + lease, now, 0, ARGV[7], NOTHING, shares, ARGV[8], ARGV[9]), unpack(writes))
return { 'reserved', now, version, table.concat(after) }
