-- ARGV[6] id, ARGV[7] epoch, ARGV[8] most members, ARGV[9…] dead nodes, whose members do not count.
local id, epoch, dead = ARGV[6], ARGV[7], named(9)
local there = members[id]
if there and there.node == node and there.epoch == epoch then
  return reply('ok') -- This very call was made before, and its answer was lost.
end
if there and there.epoch >= epoch and not dead[there.node] then return {'stale'} end
local gone = {}
for other, m in pairs(members) do
  if other == id or dead[m.node] then gone[#gone + 1] = other end
end
if size - #gone >= tonumber(ARGV[8]) then return {'full'} end
for _, other in ipairs(gone) do remove(other) end
put(id, epoch, next, node)
-- Who is back by the connection by which it left may be restored again, its older ones may not: the beginning of an
-- epoch is less than it, and more than those before.
if redis.call('HGET', departed, id) == epoch then redis.call('HSET', departed, id, string.sub(epoch, 1, -2)) end
return reply('ok')
