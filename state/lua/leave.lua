-- ARGV[6] id, ARGV[7] epoch. An older epoch that is there is of a stay that has ended elsewhere, of which Redis has not
-- heard yet.
local there = members[ARGV[6]]
if not there or there.epoch < ARGV[7] then return reply('none') end
if there.epoch > ARGV[7] then return {'other'} end
remove(ARGV[6])
return reply('ok')
