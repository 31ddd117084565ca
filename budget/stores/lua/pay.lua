#!lua flags=allow-oom
-- Book a cost out of a slice, an open reservation, in one step with what that gives back for it.
-- KEYS  marker, leases, ledger, refusals, closed windows, names, reservation, pool ..., slice
-- ARGV  1 id  2 now, swept  3 actual  4 kept: its pools are those of the slice  5 what it frees  6 what it is called in
--       the ledger
-- reply due: id ...; repeated | conflict: record; over; pools: record of the slice; booked: buckets, record

local given, swept = struct.unpack('<dd', ARGV[2])
local values = redis.call('MGET', KEYS[1], KEYS[7], unpack(KEYS, 8))
local told, count, kept = values[1] or '', #KEYS - 8, ARGV[4]
local answer, version, seq, now, due, head = enter(values[1], given, swept)
if answer then return answer end
if values[2] then return { same_request(values[2], kept) and 'repeated' or 'conflict', now, told, values[2] } end
local piece = values[count + 3]
local r = piece and read_record(piece)
if not r or r.state ~= 'o' then return { 'over', now, told } end
if read_ids(r.kept) ~= read_ids(kept) then return { 'pools', now, told, piece } end

local amounts, gone, frees = asked(r.kept), figures(r.charged), figures(ARGV[5])
for i = 1, 5 do frees[i] = math.min(frees[i], math.max(amounts[i], 0) - gone[i]) end
frees[6] = 0
local after, writes, n, closed, freed = move(values, r, figures(ARGV[3]), nil, gone, frees, now)
for i = 1, 5 do gone[i] = gone[i] + frees[i] end
local record = pack_record('r', 0, now, now, now, ARGV[3], r.starts, kept)
piece = pack_record('o', r.lease, r.lease_end, r.made, 0,
  struct.pack('<i8i8i8i8i8', unpack(gone, 1, 5)), r.starts, r.kept)

-- Nothing can fail from here.
local places = r.starts .. struct.pack('<' .. string.rep('d', count), unpack(freed))
local marker = append(version, seq, now, due, head, ARGV[6], ARGV[1], ARGV[3], '', places, kept, '')
if #closed > 0 then redis.call('HSET', KEYS[5], unpack(closed)) end
redis.call('SET', KEYS[7], record, 'PX', KEEP.r)
redis.call('MSET', KEYS[1], marker, KEYS[#KEYS], piece, unpack(writes, 1, n))
return { 'booked', now, marker, after, record }
