#!lua
-- Set aside an amount in every pool of the draws, or in none.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ...
-- ARGV  1 id  2 now, version, lease, swept, epoch and sequence that the caller has seen, pools, draws; of each draw, pools
--       first and then caps, the limits; the amounts; start, end, since  3 kept  4 lines: frozen, texts of the draws
--       5 names of the pools  6 '', or of each draw span, shadow, rollover, raised
-- reply rewound | clock; due: id ...; repeated | conflict: record; stale_policy | stale_window;
--       refused: buckets (of the draws that do not refuse: after it), draws that refuse; reserved: buckets, shadow draws
--       that would have refused, '' or the starts of the windows

local numbers, kept = ARGV[2], ARGV[3]
local given, asked, lease, swept, own, last, pools, count = struct.unpack('<dddddddd', numbers)
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local told = values[1] or ''
local version, seq, clock, due, head = read_marker(values[1])
local now, behind = instant(given, clock)
-- Entries were lost that the caller has seen, unless an operator has declared the account whole since.
if own ~= 0 and (own == epoch and seq < last or own ~= epoch and math.floor(epoch / EPOCHS) <= math.floor(own / EPOCHS)) then
  return { 'rewound', now, told }
end
if behind > CLOCK_BACK then return { 'clock', now, told } end
if swept == 0 then
  local answer
  due, answer = look_at_leases(due, now, told)
  if answer then return answer end
end
if values[2] then return { same_request(values[2], kept) and 'repeated' or 'conflict', now, told, values[2] } end
if asked ~= version then return { 'stale_policy', now, told } end
local draws = { struct.unpack('<' .. string.rep('d', 2 * count), numbers, 65) }
local more = ARGV[6] ~= '' and { struct.unpack('<' .. string.rep('d', 4 * count), ARGV[6]) }
-- Values are replaced where they are, and lists begin at the size that they will have: one that grows is moved.
local starts, writes, refused, shadowed, opened = { unpack(values) }, { unpack(draws) }, '', '', false
local KEYS, pack, unpack_ = KEYS, struct.pack, struct.unpack
for i = 1, count do
  local limit, amount, value = draws[i], draws[count + i], i <= pools and values[i + 2]
  local start, finish, since, spent, reserved, carry, parts, span, counts, _
  if more and more[4 * i - 3] > 0 then
    opened = opened or not value
    counts = unpack_('<d', numbers, 65 + 16 * count + 24 * i - 8)
    parts, _, start, span, counts = rolling().at(value, now, now, more[4 * i - 3], counts)
    starts[i] = start
    start, finish, since, spent, reserved, carry = rolling().view(parts, span, counts, now)
  else
    if value then
      if #value == 40 then value = value .. NO_CARRY end
      start, finish, since, spent, reserved, carry = unpack_(BUCKET, value)
    end
    if not value or now >= finish then
      local raised, rollover = more and more[4 * i] or 0, more and more[4 * i - 1] or 0
      start, finish, since, spent, reserved, carry = open_window(finish, value and left(limit - raised, spent, reserved, carry),
        now, numbers, 41 + 16 * count + 24 * i, rollover)
      if not start then return { 'stale_window', now, told } end
      opened = opened or i <= pools
    end
    starts[i] = start
  end
  local room = limit + carry
  if room > MAX then room = MAX end
  room = room - spent - reserved
  local fits = amount == 0 or (amount >= 0 and amount <= room)
  if not fits and more and more[4 * i - 2] == 1 and amount >= 0 and amount <= MAX - spent - reserved then
    fits, shadowed = true, shadowed .. string.char(i)
  end
  if fits then
    reserved = reserved + amount
    if parts then parts[#parts] = parts[#parts] + amount end
  else
    refused = refused .. string.char(i)
    if parts then finish = rolling().freed_at(parts, span, now, amount, limit) end
  end
  value = pack(BUCKET, start, finish, since, spent, reserved, carry)
  values[i + 2], writes[2 * i - 1], writes[2 * i] = value, KEYS[i + 7], parts and rolling().write(parts, span, counts) or value
end
if refused ~= '' or string.find(ARGV[4], '^[^\n]') then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 20000, string.format('%d-*', seq + 1), 't', string.format('%d', now),
    'r', ARGV[1], 'w', refused, 'l', ARGV[4], 'b', kept)
  return { 'refused', now, told, table.concat(values, '', 3, count + 2), refused }
end
local before = opened and redis.call('MGET', unpack(KEYS, 8))
if opened then check_windows(before, pools) end
local packed = pack_starts(starts, pools)
local record = pack_record('o', lease, now + lease, now, 0, NOTHING, packed, kept)
-- Of each shadow draw that would have refused its byte and its text; the texts are the lines after the first.
local shadows, draw = '', 0
if shadowed ~= '' then
  for text in string.gmatch(string.match(ARGV[4], '\n(.*)') .. '\n', '([^\n]*)\n') do
    draw = draw + 1
    if string.find(shadowed, string.char(draw), 1, true) then shadows = shadows .. string.char(draw) .. text .. '\n' end
  end
end
redis.call('ZADD', KEYS[2], string.format('%d', now + lease), ARGV[1])

-- Nothing can fail from here.
local marker = append(version, seq, now, math.min(due, now + lease), head, 'v', ARGV[1], shadows, '', packed, kept, '')
if opened then open_windows(before, starts, pools, ARGV[5]) end
redis.call('MSET', KEYS[1], marker, KEYS[7], record, unpack(writes, 1, 2 * pools))
return { 'reserved', now, marker, table.concat(values, '', 3, count + 2), shadowed,
  more and struct.pack('<' .. string.rep('d', pools), unpack(starts, 1, pools)) or '' }
