-- Reads the heartbeat, with ages by the server's clock.
--
-- KEYS  heartbeat
--
-- Returns {'none'}, {'damaged', why} or {'ok', milliseconds since the source
-- confirmed (or ''), source, writer, milliseconds since it was written}.

local h = redis.call('HMGET', KEYS[1], 'confirmed', 'source', 'writer', 'written')
if not (h[1] or h[2] or h[3] or h[4]) then return {'none'} end
local confirmed, written = tonumber(h[1] or ''), tonumber(h[4] or '')
if not (h[1] and h[2] and h[3] and written) then return {'damaged', 'a heartbeat with holes'} end

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local function age(at) return string.format('%.0f', math.max(now - at, 0)) end
return {'ok', confirmed and age(confirmed) or '', h[2], h[3], age(written)}
