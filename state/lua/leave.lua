-- ARGV[6] id, ARGV[7] epoch.
local there = members[ARGV[6]]
if not there then return reply('none') end
if there.epoch ~= ARGV[7] then return {'other'} end
remove(ARGV[6])
return reply('ok')
