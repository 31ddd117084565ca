#!lua
-- Set aside an amount in every pool of the draws, or in none.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, lease, swept, pools, draws; of each draw, pools first and then caps, the limits; the
--       amounts; start, end, since  3 kept  4 lines: frozen, texts of the draws  5 names of the pools
-- reply repeated | conflict: record; stale_policy | stale_window | clock; due: id ...;
--       refused: buckets (of the draws that do not refuse: after it), draws that refuse; reserved: buckets

local numbers, kept = ARGV[2], ARGV[3]
local given, asked, lease, swept, pools, count = struct.unpack('<dddddd', numbers)
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local version, seq, clock, due, head = read_marker(values[1])
local now, behind = instant(given, clock)
if behind > CLOCK_BACK then return { 'clock', now, version } end
if swept == 0 then
  local answer
  due, answer = look_at_leases(due, now, version)
  if answer then return answer end
end
if values[2] then return { same_request(values[2], kept) and 'repeated' or 'conflict', now, version, values[2] } end
if asked ~= version then return { 'stale_policy', now, version } end
local draws = { struct.unpack('<' .. string.rep('d', 2 * count), numbers, 49) }
-- Values are replaced where they are, and lists begin at the size that they will have: one that grows is moved.
local starts, writes, refused, opened = { unpack(values) }, { unpack(draws) }, '', false
local KEYS, pack, unpack_ = KEYS, struct.pack, struct.unpack
for i = 1, count do
  local limit, amount, value = draws[i], draws[count + i], i <= pools and values[i + 2]
  local start, finish, since, spent, reserved
  if value then start, finish, since, spent, reserved = unpack_(BUCKET, value) end
  if not value or now >= finish then
    start, finish, since, spent, reserved = open_window(finish, now, numbers, 25 + 16 * count + 24 * i)
    if not start then return { 'stale_window', now, version } end
    opened = opened or i <= pools
  end
  if amount == 0 or (amount >= 0 and amount <= limit - spent - reserved) then
    reserved = reserved + amount
  else
    refused = refused .. string.char(i)
  end
  value = pack(BUCKET, start, finish, since, spent, reserved)
  starts[i], values[i + 2], writes[2 * i - 1], writes[2 * i] = start, value, KEYS[i + 7], value
end
if refused ~= '' or string.find(ARGV[4], '^[^\n]') then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 20000, string.format('%d-*', seq + 1), 't', string.format('%d', now),
    'r', ARGV[1], 'w', refused, 'l', ARGV[4], 'b', kept)
  return { 'refused', now, version, table.concat(values, '', 3, count + 2), refused }
end
local before = opened and redis.call('MGET', unpack(KEYS, 8))
if opened then check_windows(before) end
local packed = struct.pack('<' .. string.rep('d', pools), unpack(starts, 1, pools))
local record = pack_record('o', lease, now + lease, now, 0, NOTHING, packed, kept)
redis.call('ZADD', KEYS[2], string.format('%d', now + lease), ARGV[1])

-- Nothing can fail from here.
local marker = append(version, seq, now, math.min(due, now + lease), head, 'v', ARGV[1], '', '', packed, kept, '')
if opened then open_windows(before, starts, ARGV[5]) end
redis.call('MSET', KEYS[1], marker, KEYS[7], record, unpack(writes, 1, 2 * pools))
return { 'reserved', now, version, table.concat(values, '', 3, count + 2) }
