-- Prelude of every script: what the data hash says about itself.

-- text writes a counter without an exponent, which tostring would use.
local function text(n) return string.format('%.0f', n) end

-- version returns the version that a stored value starts with, or nil.
local function version(value) return tonumber(string.match(value, '^(%-?%d+)|[01]|')) end

-- read returns the meta data of hash d. The field damaged is set if the hash is
-- not what the scripts left: a state with holes is worse than none.
local function read(d)
	local len = redis.call('HLEN', d)
	if len == 0 then return {rev = '', epoch = '', seq = 0, full = 0, n = 0, z = 0} end
	local m = redis.call('HMGET', d, '$epoch', '$seq', '$full', '$n', '$z', '$digest')
	local h = {
		epoch = m[1], seq = tonumber(m[2] or ''), full = tonumber(m[3] or ''),
		n = tonumber(m[4] or ''), z = tonumber(m[5] or ''), digest = m[6],
	}
	if not (h.epoch and h.seq and h.full and h.n and h.z) then
		return {rev = '', epoch = '', seq = 0, full = 0, n = 0, z = 0, damaged = 'items without their meta data'}
	end
	h.rev = h.epoch .. '-' .. text(h.seq)
	local have = len - 5
	if h.digest then have = have - 1 end
	if have ~= h.n then
		h.damaged = text(have) .. ' items instead of ' .. text(h.n)
	end
	return h
end

-- conflicts reports whether a change on base must not be committed to h.
local function conflicts(base, h)
	if base == 'uncommitted' then return h.rev ~= '' or h.damaged ~= nil end
	return base ~= '' and base ~= h.rev
end

-- advance moves h to the next revision and reports whether it is one that
-- readers cannot count to from older ones. That is so in an empty place, after
-- damage, and if the server fell back behind a revision that the writer has
-- seen (a failover, an old disk image): going on counting would reach revisions
-- again that had other content.
local function advance(h, fresh, knownEpoch, knownSeq)
	local cut = h.epoch == '' or h.damaged ~= nil or (h.epoch == knownEpoch and h.seq < tonumber(knownSeq))
	if cut then h.epoch = fresh end
	h.seq = h.seq + 1
	h.rev = h.epoch .. '-' .. text(h.seq)
	return cut
end

-- announce wakes the watchers. A user without permission for the channel can
-- write all the same, since polling readers find out; and an error that came
-- after the writes would look like a change that was not made.
local function announce(channel, rev) redis.pcall('PUBLISH', channel, rev) end
