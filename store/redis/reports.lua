-- Reads the reports that count, with ages by the server's clock.
--
-- KEYS  reports
-- ARGV  milliseconds that a report counts for
--
-- Returns {'ok', milliseconds since it was written, milliseconds since its revision
-- was applied (or ''), report, ...}.

local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local all, out = redis.call('HGETALL', KEYS[1]), {'ok'}
for i = 1, #all, 2 do
	local at, applied, report = string.match(all[i + 1], '^(%d+)|(%d*)|(.*)$')
	local age = at and math.max(now - tonumber(at), 0)
	if all[i] ~= '$swept' and age and age < tonumber(ARGV[1]) then
		out[#out + 1] = string.format('%.0f', age)
		out[#out + 1] = applied ~= '' and string.format('%.0f', math.max(now - tonumber(applied), 0)) or ''
		out[#out + 1] = report
	end
end
return out
