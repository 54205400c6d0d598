-- ARGV[6] id, ARGV[7] the epoch that must be there, ARGV[8] the one to take its place, ARGV[9] the version
-- at which it joined, 0 when that is not known, ARGV[10] the node that had it, ARGV[11] ms to remember that it was
-- adopted, 0 when it was not: the epoch is over for good, while all later ones may be restored. The status of a move that was made
-- ends with the node that had the member, and that of one that was not with a newer connection, if there is one. A caller knows from that node that the member is there: where the room is
-- younger than its stay, or older than its beginning, Redis has lost it, and it is put back.
local id, joined = ARGV[6], tonumber(ARGV[9])
local there = members[id]
if there and there.node == node and there.epoch == ARGV[8] then return reply('ok ' .. node) end
local lost = joined > 0 and (version < joined or founding > joined)
if lost and (not there or there.epoch < ARGV[7]) then
  put(id, ARGV[8], ARGV[9], node)
  return reply('back ' .. ARGV[10])
end
if there and there.epoch > ARGV[7] then return {'none ' .. text(there)} end
if not there or there.epoch ~= ARGV[7] then return {'none'} end
if ARGV[11] ~= '0' then bury(id, ARGV[7] .. '+', ARGV[11]) end
put(id, ARGV[8], there.joined, node)
return reply('ok ' .. there.node)
