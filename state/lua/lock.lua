-- Takes a lock of a vault, or keeps one that the caller has. KEYS[1] the lock, ARGV[1] who asks, ARGV[2] ms that it
-- outlives its holder. It returns 1 when the caller has it.
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
