-- Writes a heartbeat, merged with the one that is there, as Heartbeat.Merge says.
-- The server's clock is the only one that counts.
--
-- KEYS  heartbeat
-- ARGV  milliseconds since the source confirmed (or ''), source, writer,
--       milliseconds that a heartbeat speaks for, milliseconds to keep it
--
-- Returns {'ok'}.

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local old = redis.call('HMGET', KEYS[1], 'confirmed', 'written', 'writer', 'source')
local was, written = tonumber(old[1] or ''), tonumber(old[2] or '') or 0
local confirmed = tonumber(ARGV[1])
if confirmed then confirmed = now - confirmed end

if not was or was <= now then
	local alive = old[4] ~= 'off' and now - written < tonumber(ARGV[4]) and written <= now
	local later = was and (not confirmed or was > confirmed)
	if alive and old[3] ~= ARGV[3] and (later or ARGV[2] == 'off') then return {'ok'} end
	if later then confirmed = was end
end
local function text(n) return n and string.format('%.0f', n) or '' end
redis.call('HSET', KEYS[1], 'confirmed', text(confirmed), 'written', text(now),
	'source', ARGV[2], 'writer', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'ok'}
