-- Ends the lease of a node that stops, or the burial of one that died. KEYS as for the lease,
-- ARGV[…] the nodes.
for _, node in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('HDEL', KEYS[2], node)
  redis.call('ZREM', KEYS[3], node)
end
return #ARGV
