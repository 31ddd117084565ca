#!lua
-- Drop windows of a pool that are long over, and the pool with the last of them, if nothing has moved them since.
-- KEYS  closed windows, names, pool
-- ARGV  1 the pool's id  2 its value, or '' if it stays; then of each closed window its field and its value
-- reply 1 if the pool is gone, else 0

for i = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
if ARGV[2] == '' or redis.call('GET', KEYS[3]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return 1
