-- Merges items: per field the larger version wins, of equal ones the first.
--
-- KEYS  data hash, sorted set of patched fields
-- ARGV  base revision or '', fresh nonce, channel, then field, value, ...
--
-- Returns {'damaged', why}, {'conflict', rev} or {'ok', rev}.

local d, z = KEYS[1], KEYS[2]
local h = read(d)
if h.damaged then return {'damaged', h.damaged} end
if conflicts(ARGV[1], h) then return {'conflict', h.rev} end

-- Redis does not roll back: everything is decided before anything is written.
local won, order, added = {}, {}, 0
for i = 4, #ARGV, 2 do
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

local nonces = ''
if redis.call('ZCARD', z) == h.z then
	nonces = string.sub(log(d) .. h.nonce, -logLength * nonceSize)
else
	redis.call('UNLINK', z)
end
advance(h, ARGV[2])
for _, field in ipairs(order) do
	redis.call('HSET', d, field, won[field])
	redis.call('ZADD', z, text(h.seq), field)
end
redis.call('HDEL', d, '$digest')
redis.call('HSET', d, '$seq', text(h.seq), '$nonce', h.nonce, '$log', nonces,
	'$n', text(h.n + added), '$z', text(redis.call('ZCARD', z)))
announce(ARGV[3], h.rev)
return {'ok', h.rev}
