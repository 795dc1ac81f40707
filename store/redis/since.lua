-- Answers what happened after a revision, in one atomic step.
--
-- KEYS  data hash, sorted set of patched fields
-- ARGV  seq and nonce of the revision (may be empty), most items to return
--
-- Returns {'damaged', why}, {'empty'}, {'current', rev, n, digest},
-- {'all', rev, n, digest} (load everything) or
-- {'delta', rev, n, digest, nonces between, field, value, ...}.

local h = read(KEYS[1])
if h.damaged then return {'damaged', h.damaged} end
if h.rev == '' then return {'empty'} end

local function answer(state) return {state, h.rev, text(h.n), h.digest or ''} end

if ARGV[1] .. '-' .. ARGV[2] == h.rev then return answer('current') end

-- A revision counts if it is one of those that led here: of its seq there may
-- have been another one, which a server lost.
local since = tonumber(ARGV[1])
if not since or since >= h.seq then return answer('all') end
local _, nonces = log(KEYS[1])
local at = #nonces - (h.seq - since) * nonceSize
if at < 0 or string.sub(nonces, at + 1, at + nonceSize) ~= ARGV[2] then return answer('all') end

-- A sorted set that is gone or cut cannot tell what changed.
if redis.call('ZCARD', KEYS[2]) ~= h.z then return answer('all') end
local after = '(' .. ARGV[1]
local most = tonumber(ARGV[3])
if redis.call('ZCOUNT', KEYS[2], after, '+inf') > most then return answer('all') end

local out = answer('delta')
out[#out + 1] = string.sub(nonces, at + nonceSize + 1)
for _, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], after, '+inf')) do
	local value = redis.call('HGET', KEYS[1], field)
	if not value then return {'damaged', 'an item that was patched is missing'} end
	out[#out + 1] = field
	out[#out + 1] = value
end
return out
