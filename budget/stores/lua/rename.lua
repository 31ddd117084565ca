#!lua
-- Give a pool another id and name: its value, its closed windows, and what its id stands for.
-- KEYS  names, closed windows, pool, the pool under its new id
-- ARGV  1 the id  2 the new id  3 the new name; then the starts of its closed windows
-- reply 1, or 0 if there is a pool of the new id

if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('RENAME', KEYS[3], KEYS[4]) end
for i = 4, #ARGV do
  local value = redis.call('HGET', KEYS[2], ARGV[1] .. ':' .. ARGV[i])
  if value then
    redis.call('HSET', KEYS[2], ARGV[2] .. ':' .. ARGV[i], value)
    redis.call('HDEL', KEYS[2], ARGV[1] .. ':' .. ARGV[i])
  end
end
return 1
