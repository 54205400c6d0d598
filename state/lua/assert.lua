-- Makes the room right about the calling node's members, about which nobody else knows better.
-- ARGV[6] the version that the node knows, ARGV[7] the founding, ARGV[8] how many members it has, then
-- (id, epoch, joined, 1 if its client has gone, 2 if others acted meanwhile and the node knew nothing) of each, then how many have left of whom Redis may not know, then (id, epoch) of each,
-- then (id, epoch, joined, node) of other nodes' members: whom to restore when Redis lost the room, also when somebody
-- has founded it anew since, unless they have left. A node that has left meanwhile removes its own. The reply says last which of the caller's were not
-- there although the room was and are there again, and which are not put back: those who have been at another node and left there, and those
-- without a client, of whom the others knew better. In a room that Redis lost they need not know anything.
local known, knew, count = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local lost = version == 0
if founding > 0 and knew > 0 then lost = founding ~= knew
elseif founding > 0 and known > 0 then lost = founding > known end
-- older tells whether who is there is of an older connection, or of a former stay.
local function older(there, epoch, joined)
  return not there or there.epoch < epoch or there.epoch == epoch and tonumber(there.joined) < tonumber(joined)
end
local own, back, over = {}, {}, {}
for i = 9, 9 + (count - 1) * 4, 4 do
  local id, epoch = ARGV[i], ARGV[i + 1]
  own[id] = true
  local there = members[id]
  local gone = not there and redis.call('HGET', departed, id)
  local absent = tonumber(ARGV[i + 3])
  if gone and gone > epoch or not there and version > 0 and (absent == 2 or absent == 1 and not lost) then
    over[#over + 1] = id
  elseif older(there, epoch, ARGV[i + 2]) then
    if not there and not lost then back[#back + 1] = id end
    put(id, epoch, ARGV[i + 2], node)
    if gone == epoch then redis.call('HSET', departed, id, string.sub(epoch, 1, -2)) end -- It has entered again.
  end
end
local ghosts = {}
for id, m in pairs(members) do
  if m.node == node and not own[id] then ghosts[#ghosts + 1] = id end
end
for _, id in ipairs(ghosts) do remove(id) end
local rest = 9 + count * 4
local leaving = tonumber(ARGV[rest])
if lost then
  for i = rest + 1, rest + leaving * 2, 2 do
    local there = members[ARGV[i]]
    if not there or there.epoch < ARGV[i + 1] then bury(ARGV[i], ARGV[i + 1], young) end
  end
  for i = rest + 1 + leaving * 2, #ARGV, 4 do
    local there, gone = members[ARGV[i]], redis.call('HGET', departed, ARGV[i])
    if older(there, ARGV[i + 1], ARGV[i + 2]) and (not gone or gone < ARGV[i + 1]) then put(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
  end
end
if size > 0 and version < known then changed = true end
local answer = reply('ok')
answer[#answer + 1] = back
answer[#answer + 1] = over
return answer
