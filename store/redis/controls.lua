-- Reads the control, with its age by the server's clock.
--
-- KEYS  control
--
-- Returns {'none'}, {'damaged', why} or {'ok', milliseconds since it was decided,
-- frozen, by, reason, pinned}.

local c = redis.call('HMGET', KEYS[1], 'at', 'frozen', 'by', 'reason', 'pinned')
if not (c[1] or c[2] or c[3] or c[4] or c[5]) then return {'none'} end
local at = tonumber(c[1] or '')
if not (at and c[2] and c[3] and c[4] and c[5]) then return {'damaged', 'a control with holes'} end

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
return {'ok', string.format('%.0f', math.max(now - at, 0)), c[2], c[3], c[4], c[5]}
