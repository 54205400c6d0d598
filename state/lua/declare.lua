-- Declares nodes dead that have not renewed their lease since the caller found them silent. KEYS as for the
-- lease, ARGV[1] the time, in ms, after which this call is too late, ARGV[2] ms that the directory outlives
-- its last node, then (node, the end of its lease as the caller knows it, empty for none, ms of its grace).
-- It returns those that are dead now, with the ends of their graces.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now > tonumber(ARGV[1]) then return {} end
local dead = {}
for i = 3, #ARGV, 3 do
  local node = ARGV[i]
  if tonumber(redis.call('ZSCORE', KEYS[1], node) or 0) == (tonumber(ARGV[i + 1]) or 0) then
    redis.call('ZREM', KEYS[1], node)
    redis.call('ZADD', KEYS[3], 'NX', now + tonumber(ARGV[i + 2]), node)
  end
  local ends = redis.call('ZSCORE', KEYS[3], node)
  if ends then
    dead[#dead + 1] = node
    dead[#dead + 1] = ends
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return dead
