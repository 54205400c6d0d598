-- Forgets dead nodes of which no member is left, unless they live again. KEYS as for the lease, ARGV[…] the
-- nodes. It returns those that it forgot.
local gone = {}
for _, node in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[3], node) == 1 then
    redis.call('HDEL', KEYS[2], node)
    gone[#gone + 1] = node
  end
end
return gone
