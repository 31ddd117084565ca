#!lua flags=no-writes
-- Read every counter of an account at one instant.
-- KEYS  marker, closed windows, names, pool ...
-- reply marker, how many names there are, (pool:start, bucket) ... of closed windows, newest bucket of each pool ...

local found = { redis.call('GET', KEYS[1]), redis.call('HLEN', KEYS[3]), redis.call('HGETALL', KEYS[2]) }
for i = 4, #KEYS, 1000 do
  for _, value in ipairs(redis.call('MGET', unpack(KEYS, i, math.min(i + 999, #KEYS)))) do
    found[#found + 1] = value
  end
end
return found
