-- Adds events to the outbox and removes the oldest beyond its bounds.
--
-- KEYS  stream, counters, ids
-- ARGV  events at most, bytes at most, milliseconds to remember ids, group,
--       then id and data of each event
--
-- Returns {'ok'}.

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local most, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local added, ignored, bytes = 0, 0, 0
for i = 5, #ARGV, 2 do
	if redis.call('ZSCORE', KEYS[3], ARGV[i]) then
		ignored = ignored + 1
	else
		redis.call('XADD', KEYS[1], '*', 'i', ARGV[i], 'd', ARGV[i + 1])
		redis.call('ZADD', KEYS[3], now, ARGV[i])
		added = added + 1
		bytes = bytes + #ARGV[i] + #ARGV[i + 1]
	end
end
if added > 0 then redis.call('HINCRBY', KEYS[2], 'added', added) end
if ignored > 0 then redis.call('HINCRBY', KEYS[2], 'ignored', ignored) end
bytes = redis.call('HINCRBY', KEYS[2], 'bytes', bytes)
local length = redis.call('XLEN', KEYS[1])
local freed = 0
while length > 0 and (length > most or bytes - freed > room) do
	for _, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 100)) do
		if length <= most and bytes - freed <= room then break end
		pcall(redis.call, 'XACK', KEYS[1], ARGV[4], e[1])
		redis.call('XDEL', KEYS[1], e[1])
		freed = freed + #e[2][2] + #e[2][4]
		length = length - 1
	end
end
if freed > 0 then redis.call('HINCRBY', KEYS[2], 'bytes', -freed) end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - tonumber(ARGV[3]))
local ids = redis.call('ZCARD', KEYS[3])
if ids > 2 * most then redis.call('ZREMRANGEBYRANK', KEYS[3], 0, ids - 2 * most - 1) end
return {'ok'}
