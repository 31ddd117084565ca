#!lua
-- Set aside an amount in every pool of the draws, or in none.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, lease, swept, pools, draws  3 per draw: limit, amount, start, end, since (pools, then
--       caps)  4 per pool: unit, amount  5 pool ids  6 amounts  7 digest  8 body  9 names  10 texts  11 frozen
-- reply repeated | conflict: record; stale_policy | stale_window | clock; due: id ...;
--       refused: buckets, draws that refuse; reserved: buckets

local given, version, lease, swept, pools, count = struct.unpack('<i8i8i8i8i8i8', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local m = read_marker(values[1])
local now, behind = instant(given, m)
if behind > CLOCK_BACK then return { 'clock', now, m.version } end
local ids = swept == 0 and due(KEYS[2], m, now)
if ids then return ids end
local record = values[2]
if record then
  return { has_digest(record, ARGV[7]) and 'repeated' or 'conflict', now, m.version, record }
end
if version ~= m.version then return { 'stale_policy', now, m.version } end
local draws = { struct.unpack('<' .. string.rep('i8', 5 * count), ARGV[3]) }
local buckets, refused = {}, {}
for i = 1, count do
  local at = 5 * i - 4
  local limit, amount = draws[at], draws[at + 1]
  local value = i <= pools and values[i + 2]
  local s, e, c, spent, reserved = present(value, now, draws[at + 2], draws[at + 3], draws[at + 4])
  if not s then return { 'stale_window', now, m.version } end
  if not (amount == 0 or (amount >= 0 and amount <= limit - spent - reserved)) then refused[#refused + 1] = i end
  buckets[i] = { s, e, c, spent, reserved, amount }
end
if #refused > 0 or ARGV[11] ~= '' then
  local found, which = {}, string.char(unpack(refused))
  for i = 1, count do found[i] = struct.pack('<i8i8i8i8i8', unpack(buckets[i], 1, 5)) end
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 20000, string.format('%.0f-*', m.seq + 1), 't',
    string.format('%.0f', now), 'r', ARGV[1], 'b', ARGV[8], 'w', which, 'i', ARGV[5], 'l', ARGV[10], 'f', ARGV[11])
  return { 'refused', now, m.version, table.concat(found), which }
end

-- Nothing can fail from here.
local starts, after, writes = {}, {}, {}
for i = 1, pools do
  local s, e, c, spent, reserved, amount = unpack(buckets[i])
  starts[i] = s
  after[i] = struct.pack('<i8i8i8i8i8', s, e, c, spent, reserved + amount)
  writes[2 * i - 1], writes[2 * i] = KEYS[i + 7], after[i]
end
local shares = pack_shares(starts, ARGV[4], ARGV[5])
append(m, KEYS[3], now, 'reserved', ARGV[1], '', '', shares, ARGV[8], '')
m.due = math.min(m.due, now + lease)
redis.call('ZADD', KEYS[2], string.format('%.0f', now + lease), ARGV[1])
for i = 1, pools do
  if not values[i + 2] then name_pools(KEYS[6], ARGV[5], ARGV[9]) break end
end
for i = 1, pools do close_window(KEYS[5], KEYS[i + 7], values[i + 2], starts[i]) end
redis.call('MSET', KEYS[1], write_marker(m), KEYS[7],
  pack_record('o', lease, now + lease, now, 0, ARGV[6], NOTHING, shares, ARGV[7], ARGV[8]), unpack(writes))
return { 'reserved', now, m.version, table.concat(after) }
