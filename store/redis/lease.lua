-- KEYS[1] the lease; ARGV[1] who wants it, ARGV[2] for how many ms, 0 to give it up
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then
  return {'other'}
end
if ARGV[2] == '0' then
  redis.call('UNLINK', KEYS[1])
  return {'none'}
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'held'}
