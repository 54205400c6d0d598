-- ARGV[6] id, ARGV[7] the epoch that must be there, ARGV[8] the one to take its place. The status of
-- a move that was made is the node that had the member.
local there = members[ARGV[6]]
if there and there.node == node and there.epoch == ARGV[8] then return reply('ok ' .. node) end
if not there or there.epoch ~= ARGV[7] then return {'none'} end
put(ARGV[6], ARGV[8], there.joined, node)
return reply('ok ' .. there.node)
