#!lua flags=allow-oom
-- Set buckets to what an audit found that they are, if nothing has happened since.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, pool ...
-- ARGV  1 now, sequence  2 kept: one share per bucket, of nothing  then of each pool  name, or ''; its buckets, oldest first:
--       start, end, since, spent, reserved, carry, span
-- reply moved | rebuilt

local given, asked = struct.unpack('<dd', ARGV[1])
local told = redis.call('GET', KEYS[1])
local version, seq, clock, due, head = read_marker(told)
local now = instant(given, clock)
if seq ~= asked then return { 'moved', now, told or '' } end

local starts, spents, reserveds, n = {}, {}, {}, 0
local writes, closed, names, count = {}, {}, {}, 0

-- Remember a bucket's change for the entry.
local function note(start, spent, reserved)
  n = n + 1
  starts[n], spents[n], reserveds[n] = start, spent, reserved
end

local function set_part(parts, start, spent, reserved)
  local i = rolling().find(parts, start)
  note(start, spent - (i and parts[i + 1] or 0), reserved - (i and parts[i + 2] or 0))
  if not i then
    i = 1
    while parts[i] and parts[i] < start do i = i + 3 end
    for _ = 1, 3 do table.insert(parts, i, 0) end
  end
  parts[i], parts[i + 1], parts[i + 2] = start, spent, reserved
end

for k = 7, #KEYS do
  local name, packed = ARGV[2 * k - 11], ARGV[2 * k - 10]
  local value, parts, span, since_ = redis.call('GET', KEYS[k]), nil, nil, nil
  for at = 1, #packed, 56 do
    local start, finish, since, spent, reserved, carry, span_ = struct.unpack('<ddddddd', packed, at)
    if span_ > 0 then
      if not parts then
        parts, span, since_ = {}, span_, since
        if value then parts, span, since_ = rolling().read(value) end
      end
      set_part(parts, start, spent, reserved)
    else
      local newest = value and struct.unpack('<d', value)
      local was = value
      if newest and start ~= newest then was = redis.call('HGET', KEYS[5], closed_field(KEYS[k], start)) end
      local _, _, _, spent_, reserved_ = read_bucket(was or NO_BUCKET)
      note(start, spent - spent_, reserved - reserved_)
      local now_is = struct.pack(BUCKET, start, finish, since, spent, reserved, carry)
      if newest and start < newest then
        closed[#closed + 1], closed[#closed + 2] = closed_field(KEYS[k], start), now_is
      else
        if newest and newest < start then
          closed[#closed + 1], closed[#closed + 2] = closed_field(KEYS[k], newest), value
        end
        value = now_is
      end
    end
  end
  writes[count + 1], writes[count + 2] = KEYS[k], parts and rolling().write(parts, span, since_) or value
  count = count + 2
  if name ~= '' then names[#names + 1], names[#names + 2] = pool_id(KEYS[k]), name end
end
local function packed_list(list) return struct.pack('<' .. string.rep('d', n), unpack(list)) end
local places = packed_list(starts) .. packed_list(spents) .. packed_list(reserveds)

-- Nothing can fail from here.
local marker = append(version, seq, now, due, head, 'q', '', '', '', places, ARGV[2], '')
if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
if #names > 0 then redis.call('HSET', KEYS[6], unpack(names)) end
redis.call('MSET', KEYS[1], marker, unpack(writes, 1, count))
return { 'rebuilt', now, marker }
