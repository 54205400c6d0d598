-- Renews the calling node's lease and tells it how the cluster stands.
-- KEYS[1] sorted set: node → end of its lease, ms
-- KEYS[2] hash: node → what it announced
-- KEYS[3] sorted set: dead node → when its grace ends and its rooms must be swept (again), ms
-- KEYS[4] hash: name → cluster secret
-- ARGV[1] node, ARGV[2] ms of a lease, ARGV[3] announcement, ARGV[4] the time, in ms, until which this
-- call may do more than renew: one that was stuck would take all for dead that were stuck too,
-- ARGV[5] ms that the directory outlives its last node, ARGV[6] ms of a dead node's grace, ARGV[7] 1 if
-- leases that have ended may be taken for deaths, ARGV[8…] (name, value, 1 if the cluster has it, 0 for a proposal) of secrets
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends = now + tonumber(ARGV[2])
local had = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
redis.call('ZADD', KEYS[1], ends, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
local buried = redis.call('ZREM', KEYS[3], ARGV[1])
local sweep = {}
if now <= tonumber(ARGV[4]) then
  if ARGV[7] == '1' then
    for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
      redis.call('ZREM', KEYS[1], dead)
      redis.call('ZADD', KEYS[3], 'NX', now + tonumber(ARGV[6]), dead)
    end
  end
  -- Sweeping is this node's now; when it dies at that, the next one's after another lease.
  sweep = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)
  for _, dead in ipairs(sweep) do redis.call('ZADD', KEYS[3], ends, dead) end
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
for i = 8, #ARGV, 3 do
  local name, value = ARGV[i], ARGV[i + 1]
  if redis.call('HSETNX', KEYS[4], name, value) == 0 and ARGV[i + 2] == '1' then
    -- After Redis has lost its data a node that has just started may come before those that know the cluster's secret. What it
    -- proposed stays valid behind that. A secret that was rotated is no proposal.
    local has = redis.call('HGET', KEYS[4], name)
    local newest, rest = string.match(value, '^([^,]*)(,?[^,]*)')
    local known, proposed = ',' .. string.match(newest, '^[^@]*') .. ',', ',' .. string.match(has, '^[^,]*')
    if not string.find(has, '@', 1, true) and not string.find(',' .. has .. ',', known, 1, true) then
      redis.call('HSET', KEYS[4], name, newest .. rest .. (proposed == rest and '' or proposed))
    end
  end
end
return {string.format('%.0f', clock[1] * 1000000 + clock[2]), string.format('%.0f', had), buried, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', KEYS[2]), redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'), sweep, redis.call('HGETALL', KEYS[4])}
