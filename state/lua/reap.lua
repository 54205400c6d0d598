-- ARGV[6…] dead nodes. Whoever comes first removes their members, so that each leaves once.
local dead, gone = named(6), {}
for id, m in pairs(members) do
  if dead[m.node] then gone[#gone + 1] = id end
end
for _, id in ipairs(gone) do remove(id) end
return reply('ok')
