-- Adds a revision to the history.
--
-- KEYS  history, bodies of its revisions
-- ARGV  number of the last revision that is known or '0', number of the new one,
--       what there is to say of it, its body or '' to keep the one that is there,
--       numbers of revisions to drop ...
--
-- Returns {'ok'} or {'next', number of the last revision}.

local last = redis.call('HGET', KEYS[1], '$last') or '0'
if last ~= ARGV[1] then return {'next', last} end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3], '$last', ARGV[2])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], ARGV[2], ARGV[4]) end
for i = 5, #ARGV do
	redis.call('HDEL', KEYS[1], ARGV[i])
	redis.call('HDEL', KEYS[2], ARGV[i])
end
return {'ok'}
