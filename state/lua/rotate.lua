-- KEYS[1] hash of cluster secrets, ARGV[1] name, ARGV[2] new secret, ARGV[3] ms until it is used.
-- A value is "NEW@MS,OLD": until MS all nodes accept NEW and none mints with it, so that none has
-- to accept what it has not heard of. Only the last one stays valid beside the new.
local clock = redis.call('TIME')
local from = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[3])
local old = redis.call('HGET', KEYS[1], ARGV[1])
local value = ARGV[2] .. '@' .. string.format('%.0f', from)
if old then value = value .. ',' .. string.match(old, '^([^@,]*)') end
redis.call('HSET', KEYS[1], ARGV[1], value)
return value
