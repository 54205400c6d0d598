-- Gives a lock of a vault back. KEYS[1] the lock, ARGV[1] who had it. It returns 0 when that was lost.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
