-- Makes the room right about the calling node's members, about which nobody else knows better.
-- ARGV[6] the version that the node knows, ARGV[7] how many members it has, then (id, epoch, joined)
-- of each, then (id, epoch, joined, node) of other nodes' members: what to restore in a room of
-- which nothing is left. A node that has left meanwhile removes its own.
local known, count = tonumber(ARGV[6]), tonumber(ARGV[7])
local missing, own = version == 0, {}
for i = 8, 8 + (count - 1) * 3, 3 do
  local id, epoch = ARGV[i], ARGV[i + 1]
  own[id] = true
  local there = members[id]
  if not there or there.epoch < epoch then put(id, epoch, ARGV[i + 2], node) end
end
local ghosts = {}
for id, m in pairs(members) do
  if m.node == node and not own[id] then ghosts[#ghosts + 1] = id end
end
for _, id in ipairs(ghosts) do remove(id) end
if missing then
  for i = 8 + count * 3, #ARGV, 4 do
    if not members[ARGV[i]] then put(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
  end
end
if size > 0 and version < known then changed = true end
return reply('ok')
