-- Gives a consumer events: its own again, then those of dead consumers, then new
-- ones.
--
-- KEYS  stream
-- ARGV  group, consumer, events at most, milliseconds after which a consumer is dead
--
-- Returns {'ok', receipt, id, data, ...}.

local key, group, consumer, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local out, n = {'ok'}, 0
local function add(entries)
	for _, e in ipairs(entries) do
		if e and e[2] then
			out[#out + 1] = e[1]
			out[#out + 1] = e[2][2]
			out[#out + 1] = e[2][4]
			n = n + 1
		end
	end
end
if redis.call('EXISTS', key) == 0 then return out end
local made = redis.pcall('XGROUP', 'CREATE', key, group, '0')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
local own = redis.call('XPENDING', key, group, '-', '+', most, consumer)
if #own > 0 then
	local ids = {}
	for i, p in ipairs(own) do ids[i] = p[1] end
	add(redis.call('XCLAIM', key, group, consumer, 0, unpack(ids)))
end
if n < most then
	add(redis.call('XAUTOCLAIM', key, group, consumer, ARGV[4], '0-0', 'COUNT', most - n)[2])
end
if n < most then
	local fresh = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most - n, 'STREAMS', key, '>')
	if fresh then add(fresh[1][2]) end
end
return out
