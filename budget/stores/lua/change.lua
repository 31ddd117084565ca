#!lua
-- Write one row of the policy, or remove it.
-- KEYS  marker, leases, ledger, policy
-- ARGV  1 kind and identity  2 now, swept, remove  3 body  4 what it is called in the ledger  5 detail
-- reply due: id ...; changed | unchanged

local given, swept, remove = struct.unpack('<ddd', ARGV[2])
local told = redis.call('GET', KEYS[1])
local answer, version, seq, now, due, head = enter(told, given, swept)
if answer then return answer end
local before = redis.call('HGET', KEYS[4], ARGV[1])
if before == (remove == 0 and ARGV[3]) then return { 'unchanged', now, told or '' } end

-- Nothing can fail from here.
-- Whoever takes a fence away declares the account whole: its next epoch begins, which all who have seen another one take.
if ARGV[4] == 'g' then epoch = (math.floor(epoch / EPOCHS) + 1) * EPOCHS end
local marker = append(version + 1, seq, now, due, head, ARGV[4], '', '', '', '', '', ARGV[5])
if remove == 0 then redis.call('HSET', KEYS[4], ARGV[1], ARGV[3]) else redis.call('HDEL', KEYS[4], ARGV[1]) end
redis.call('SET', KEYS[1], marker)
return { 'changed', now, marker }
