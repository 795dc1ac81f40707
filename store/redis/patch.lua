-- Merges items: per field the larger version wins, of equal ones the first.
--
-- KEYS  data hash, sorted set of patched fields
-- ARGV  base revision or '', fresh epoch, epoch and seq last seen by the writer,
--       channel, then field, value, ...
--
-- Returns {'damaged', why}, {'conflict', rev} or {'ok', rev}.

local d, z = KEYS[1], KEYS[2]
local h = read(d)
if h.damaged then return {'damaged', h.damaged} end
if conflicts(ARGV[1], h) then return {'conflict', h.rev} end

-- Redis does not roll back: everything is decided before anything is written.
local won, order, added = {}, {}, 0
for i = 6, #ARGV, 2 do
	local field, value = ARGV[i], ARGV[i + 1]
	local old = won[field] or redis.call('HGET', d, field)
	local new = true
	if old then
		local v = version(old)
		if not v then return {'damaged', 'an item without a version'} end
		new = version(value) > v
	else
		added = added + 1
	end
	if new then
		if not won[field] then order[#order + 1] = field end
		won[field] = value
	end
end
if #order == 0 then return {'ok', h.rev} end

local cut = redis.call('ZCARD', z) ~= h.z
if advance(h, ARGV[2], ARGV[3], ARGV[4]) then cut = true end
if cut then
	redis.call('UNLINK', z)
	h.full = h.seq
end
for _, field in ipairs(order) do
	redis.call('HSET', d, field, won[field])
	redis.call('ZADD', z, text(h.seq), field)
end
redis.call('HDEL', d, '$digest')
redis.call('HSET', d, '$epoch', h.epoch, '$seq', text(h.seq), '$full', text(h.full),
	'$n', text(h.n + added), '$z', text(redis.call('ZCARD', z)))
announce(ARGV[5], h.rev)
return {'ok', h.rev}
