-- Counts the outbox.
--
-- KEYS  stream, counters
--
-- Returns {'ok', added, acknowledged, ignored, bytes, pending, receipt of the oldest or ''}.

local c = redis.call('HMGET', KEYS[2], 'added', 'acknowledged', 'ignored', 'bytes')
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {'ok', c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0',
	tostring(redis.call('XLEN', KEYS[1])), oldest and oldest[1] or ''}
