#!lua
-- Add increments to the sketches of what was learned (expect.py); without any, read all of them. No pool, no entry.
-- KEYS  marker, sketches
-- ARGV  1 now  2 name, 3 pairs of bucket and count (I2I4) ... sorted by name
-- reply learned: name, pairs ...

local WINDOW, SKETCHES = 4096, 2048

local function unpacked(pairs_)
  local counts, buckets, total = {}, {}, 0
  for at = 1, #pairs_, 6 do
    local bucket, count = struct.unpack('<I2I4', pairs_, at)
    counts[bucket], buckets[#buckets + 1], total = count, bucket, total + count
  end
  return counts, buckets, total
end

-- The pairs of a sketch, in the order of its buckets, halved so many times.
local function packed(counts, buckets, times)
  table.sort(buckets)
  local found, divisor, seen = {}, 2 ^ times, 0
  for _, bucket in ipairs(buckets) do
    local before = seen
    seen = seen + counts[bucket]
    local kept = math.floor(seen / divisor) - math.floor(before / divisor)
    if kept > 0 then found[#found + 1] = struct.pack('<I2I4', bucket, kept) end
  end
  return table.concat(found)
end

local function age()
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local counts, buckets = unpacked(all[i + 1])
    local value = packed(counts, buckets, 1)
    if value == '' then redis.call('HDEL', KEYS[2], all[i]) else redis.call('HSET', KEYS[2], all[i], value) end
  end
end

local told = redis.call('GET', KEYS[1])
local _, _, clock = read_marker(told)
local reply = { 'learned', (instant(struct.unpack('<d', ARGV[1]), clock)), told or '' }
if #ARGV == 1 then
  for _, value in ipairs(redis.call('HGETALL', KEYS[2])) do reply[#reply + 1] = value end
  return reply
end
local fresh = {}
for i = 2, #ARGV, 2 do
  if not redis.call('HGET', KEYS[2], ARGV[i]) then
    if redis.call('HLEN', KEYS[2]) >= SKETCHES then age() end
    fresh[i] = redis.call('HLEN', KEYS[2]) >= SKETCHES
    if not fresh[i] then redis.call('HSET', KEYS[2], ARGV[i], '') end
  end
end
for i = 2, #ARGV, 2 do
  local value = ''
  if not fresh[i] then
    local counts, buckets, total = unpacked(redis.call('HGET', KEYS[2], ARGV[i]) or '')
    local more, others, added = unpacked(ARGV[i + 1])
    for _, bucket in ipairs(others) do
      if not counts[bucket] then buckets[#buckets + 1] = bucket end
      counts[bucket] = (counts[bucket] or 0) + more[bucket]
    end
    total = total + added
    local times = 0
    while math.floor(total / 2 ^ times) > WINDOW do times = times + 1 end
    value = packed(counts, buckets, times)
    redis.call('HSET', KEYS[2], ARGV[i], value)
  end
  reply[#reply + 1], reply[#reply + 2] = ARGV[i], value
end
return reply
