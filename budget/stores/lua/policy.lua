#!lua flags=no-writes
-- Read the policy and its version in one step.
-- KEYS  marker, policy
-- ARGV  1 now
-- reply policy: kind and identity, body ...

local told = redis.call('GET', KEYS[1])
local _, _, clock = read_marker(told)
return { 'policy', (instant(struct.unpack('<d', ARGV[1]), clock)), told or '', redis.call('HGETALL', KEYS[2]) }
