-- Puts a staged hash in the place of the data.
--
-- KEYS  data hash, sorted set of patched fields, control, staged hash
-- ARGV  base revision or '', fresh nonce, channel, '1' to commit although it is
--       frozen, digest, number of items, revision whose content is known to
--       differ or '*'
--
-- Returns {'frozen'}, {'conflict', rev}, {'again', rev} (another revision than
-- expected: compare once more), {'incomplete'} (the staged hash expired) or
-- {'ok', rev, rev before}.

local d, z, stage = KEYS[1], KEYS[2], KEYS[4]
if frozen(KEYS[3], ARGV[4]) then
	redis.call('UNLINK', stage)
	return {'frozen'}
end
local h = read(d)
if conflicts(ARGV[1], h) then
	redis.call('UNLINK', stage)
	return {'conflict', h.rev}
end
if ARGV[7] ~= '*' and ARGV[7] ~= h.rev then
	if h.digest == ARGV[5] and not h.damaged then
		redis.call('UNLINK', stage)
		return {'ok', h.rev, h.rev}
	end
	return {'again', h.rev}
end
if redis.call('HLEN', stage) ~= tonumber(ARGV[6]) then return {'incomplete'} end

local past, counted = log(d)
if h.rev == '' then past, counted = '', '' end -- damaged, and counted anew
local base = h.rev
-- Nobody can count across a full change, but its past is known.
past = past .. counted .. h.nonce
advance(h, ARGV[2])
redis.call('HSET', stage, '$seq', text(h.seq), '$nonce', h.nonce, '$log', remember(past, ''),
	'$n', ARGV[6], '$z', '0', '$digest', ARGV[5])
redis.call('PERSIST', stage)
-- UNLINK frees the old content in the background; RENAME alone would do it here.
redis.call('UNLINK', d, z)
redis.call('RENAME', stage, d)
announce(ARGV[3], h.rev)
return {'ok', h.rev, base}
