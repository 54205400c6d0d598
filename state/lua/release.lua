-- Ends the lease of a node that stops. KEYS as for the lease, ARGV[1] the node, ARGV[2] ms of its grace if
-- it leaves members behind, else empty, ARGV[3] ms that the directory outlives its last node.
redis.call('ZREM', KEYS[1], ARGV[1])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
