#!lua flags=allow-oom
-- Prolong a lease; never shortens it, never revives a reservation.
-- KEYS  marker, leases, reservation
-- ARGV  1 id  2 now, swept, lease
-- reply due: id ...; unknown; left | renewed: record

local given, swept, lease = struct.unpack('<ddd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[3])
local told = values[1] or ''
local answer, _, _, now = enter(values[1], given, swept)
if answer then return answer end
local record = values[2]
if not record then return { 'unknown', now, told } end
local r = read_record(record)
if r.state ~= 'o' then return { 'left', now, told, record } end
local until_ = math.max(r.lease_end, now + lease)
record = pack_record('o', r.lease, until_, r.made, 0, r.charged, r.starts, r.kept)
redis.call('ZADD', KEYS[2], string.format('%d', until_), ARGV[1])
-- Scripts of the first format wrote its id as the text that its key ends with.
if pool_id(KEYS[3]) ~= ARGV[1] then redis.call('ZREM', KEYS[2], pool_id(KEYS[3])) end

-- Nothing can fail from here.
redis.call('SET', KEYS[3], record)
return { 'renewed', now, told, record }
