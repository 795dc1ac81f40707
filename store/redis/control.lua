-- Writes the control.
--
-- KEYS  control
-- ARGV  milliseconds since it was decided, '1' if frozen or '0', by, reason, pinned
--
-- Returns {'ok'}.

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now - tonumber(ARGV[1])), 'frozen', ARGV[2],
	'by', ARGV[3], 'reason', ARGV[4], 'pinned', ARGV[5])
return {'ok'}
