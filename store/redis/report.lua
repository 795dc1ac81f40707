-- Writes a reader's report. The server's clock is the only one that counts.
--
-- KEYS  reports
-- ARGV  reader, milliseconds since it applied its revision (or ''), the report or ''
--       to remove it, milliseconds to keep it, most readers
--
-- Returns {'ok'} or {'full', number of readers}.

local key, life = KEYS[1], tonumber(ARGV[4])
local field = 'r:' .. ARGV[1]
if ARGV[3] == '' then
	redis.call('HDEL', key, field)
	return {'ok'}
end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local function text(n) return string.format('%.0f', n) end

local swept = tonumber(redis.call('HGET', key, '$swept') or '') or 0
if now - swept > life or swept > now then
	local all = redis.call('HGETALL', key)
	for i = 1, #all, 2 do
		local at = tonumber(string.match(all[i + 1], '^(%d+)|') or '')
		if all[i] ~= '$swept' and (not at or now - at > life or at > now) then
			redis.call('HDEL', key, all[i])
		end
	end
	redis.call('HSET', key, '$swept', text(now))
end
if not redis.call('HGET', key, field) then
	local n = redis.call('HLEN', key) - 1
	if n >= tonumber(ARGV[5]) then return {'full', text(n)} end
end
local applied = tonumber(ARGV[2])
redis.call('HSET', key, field, text(now) .. '|' .. (applied and text(now - applied) or '') .. '|' .. ARGV[3])
redis.call('PEXPIRE', key, text(2 * life))
return {'ok'}
