-- Removes events that were delivered.
--
-- KEYS  stream, counters
-- ARGV  group, receipts
--
-- Returns {'ok'}.

local done, freed = 0, 0
for i = 2, #ARGV do
	local e = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
	if e then
		redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
		redis.call('XDEL', KEYS[1], ARGV[i])
		done = done + 1
		freed = freed + #e[2][2] + #e[2][4]
	end
end
if done > 0 then
	redis.call('HINCRBY', KEYS[2], 'acknowledged', done)
	redis.call('HINCRBY', KEYS[2], 'bytes', -freed)
end
return {'ok'}
