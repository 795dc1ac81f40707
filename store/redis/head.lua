-- Prelude of every script: what the data hash says about itself.

-- A nonce is of nonceSize bytes, and the log holds those of logLength commits.
local nonceSize, logLength = 16, 128

-- text writes a counter without an exponent, which tostring would use.
local function text(n) return string.format('%.0f', n) end

-- version returns the version that a stored value starts with, or nil.
local function version(value) return tonumber(string.match(value, '^(%-?%d+)|[01]|')) end

-- read returns the meta data of hash d. The field damaged is set if the hash is
-- not what the scripts left: a state with holes is worse than none.
local function read(d)
	local none = {rev = '', nonce = '', seq = 0, n = 0, z = 0}
	local len = redis.call('HLEN', d)
	if len == 0 then return none end
	local m = redis.call('HMGET', d, '$seq', '$nonce', '$n', '$z', '$digest')
	local h = {
		seq = tonumber(m[1] or ''), nonce = m[2], n = tonumber(m[3] or ''), z = tonumber(m[4] or ''),
		digest = m[5],
	}
	if not (h.seq and h.nonce and h.n and h.z) then
		none.damaged = 'items without their meta data'
		return none
	end
	h.rev = text(h.seq) .. '-' .. h.nonce
	local have = len - 5 -- those above and $log
	if h.digest then have = have - 1 end
	if have ~= h.n then
		h.damaged = text(have) .. ' items instead of ' .. text(h.n)
	end
	return h
end

-- log returns nonces of the commits before h, the last one at the end: those that
-- patches cannot count from, because a full change came after them, and those
-- that they can.
local function log(d)
	local all = redis.call('HGET', d, '$log') or ''
	local bar = string.find(all, '|', 1, true)
	if not bar then return '', all end
	return string.sub(all, 1, bar - 1), string.sub(all, bar + 1)
end

-- remember returns what to keep of both.
local function remember(past, counted)
	counted = string.sub(counted, -logLength * nonceSize)
	local room = logLength * nonceSize - #counted
	if room <= 0 then return '|' .. counted end
	return string.sub(past, -room) .. '|' .. counted
end

-- conflicts reports whether a change on base must not be committed to h.
local function conflicts(base, h)
	if base == 'uncommitted' then return h.rev ~= '' or h.damaged ~= nil end
	return base ~= '' and base ~= h.rev
end

-- frozen reports whether nothing may be committed because of the control at key.
local function frozen(key, override)
	return override ~= '1' and redis.call('HGET', key, 'frozen') == '1'
end

-- advance moves h to the next revision. The nonce makes it another one than any
-- that was ever reached with as many commits: a server that lost its last ones
-- counts them again.
local function advance(h, nonce)
	h.seq, h.nonce = h.seq + 1, nonce
	h.rev = text(h.seq) .. '-' .. nonce
end

-- announce wakes the watchers. A user without permission for the channel can
-- write all the same, since polling readers find out; and an error that came
-- after the writes would look like a change that was not made.
local function announce(channel, message) redis.pcall('PUBLISH', channel, message) end
