-- Merges items: per field the larger version wins, of equal ones the first.
--
-- KEYS  data hash, sorted set of patched fields, control
-- ARGV  base revision or '', fresh nonce, channel, '1' to commit although it is
--       frozen, then field, value, ...
--
-- Returns {'frozen'}, {'damaged', why}, {'conflict', rev} or {'ok', rev, rev before}.

-- A message of at most maxMessage bytes carries the change itself.
local maxMessage = 65536

local function netstring(s) return #s .. ':' .. s .. ',' end

local d, z = KEYS[1], KEYS[2]
if frozen(KEYS[3], ARGV[4]) then return {'frozen'} end
local h = read(d)
if h.damaged then return {'damaged', h.damaged} end
if conflicts(ARGV[1], h) then return {'conflict', h.rev} end

-- Redis does not roll back: everything is decided before anything is written.
local won, order, added = {}, {}, 0
for i = 5, #ARGV, 2 do
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
if #order == 0 then return {'ok', h.rev, h.rev} end

local past, counted = log(d)
if redis.call('ZCARD', z) == h.z then
	counted = counted .. h.nonce
else
	redis.call('UNLINK', z)
	past, counted = past .. counted .. h.nonce, ''
end
local base = h.rev
advance(h, ARGV[2])
for _, field in ipairs(order) do
	redis.call('HSET', d, field, won[field])
	redis.call('ZADD', z, text(h.seq), field)
end
redis.call('HDEL', d, '$digest')
redis.call('HSET', d, '$seq', text(h.seq), '$nonce', h.nonce, '$log', remember(past, counted),
	'$n', text(h.n + added), '$z', text(redis.call('ZCARD', z)))

local message, size = {'d' .. netstring(base), netstring(h.rev)}, 0
for _, field in ipairs(order) do
	size = size + #field + #won[field]
	if size > maxMessage then break end
	message[#message + 1] = netstring(field)
	message[#message + 1] = netstring(won[field])
end
if base == '' or size > maxMessage then message = {h.rev} end
announce(ARGV[3], table.concat(message))
return {'ok', h.rev, base}
