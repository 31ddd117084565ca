#!lua flags=no-writes
-- Read the policy and its version in one step.
-- KEYS  marker, policy
-- ARGV  1 now
-- reply policy: kind and identity, body ...

local version, _, clock = read_marker(redis.call('GET', KEYS[1]))
local now = instant(struct.unpack('<d', ARGV[1]), clock)
return { 'policy', now, version, redis.call('HGETALL', KEYS[2]) }
