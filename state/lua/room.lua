-- What every change of a room begins with. A room is a hash: "v" is its version and its founding,
-- "m:ID" is a member as "EPOCH JOINED NODE". An epoch has 20 digits, because it does not fit into a
-- number here and must compare as text. JOINED is the version at which the member joined: the join order.
--
-- The founding is the version of the first change since the key came to be: when it is not the one
-- that a node knows, Redis lost the room meanwhile. "v" is written VERSION.0FOUNDING. For a node of protocol 1
-- that is the number VERSION, since doubles of that size are at least a quarter apart; it writes VERSION
-- alone, and then the founding is unknown, which is 0 here.
--
-- KEYS[1]  the room
-- ARGV[1]  the time, in µs, after which this call is too late to have any effect
-- ARGV[2]  a version that the next one must exceed
-- ARGV[3]  ms that a room lives without a change, ARGV[4] that an empty one remembers its version
-- ARGV[5]  the calling node
local room, node = KEYS[1], ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if now > tonumber(ARGV[1]) then return {'late'} end

local members, size, version, founding = {}, 0, 0, 0
local stored = redis.call('HGETALL', room)
for i = 1, #stored, 2 do
  if stored[i] == 'v' then
    local whole, rest = string.match(stored[i + 1], '^(%d+)%.?(%d*)$')
    version, founding = tonumber(whole), tonumber(rest) or 0
  elseif string.sub(stored[i], 1, 2) == 'm:' then
    local epoch, joined, at = string.match(stored[i + 1], '^(%d+) (%d+) (.*)$')
    members[string.sub(stored[i], 3)] = {epoch = epoch, joined = joined, node = at}
    size = size + 1
  end
end

local next = string.format('%.0f', math.max(version + 1, now, tonumber(ARGV[2]) + 1))
local changed, left = false, {}

local function text(m) return m.epoch .. ' ' .. m.joined .. ' ' .. m.node end

local function put(id, epoch, joined, at)
  if not members[id] then size = size + 1 end
  members[id] = {epoch = epoch, joined = joined, node = at}
  redis.call('HSET', room, 'm:' .. id, text(members[id]))
  changed = true
end

-- While the room is young, nodes may restore in it whom they knew before Redis lost it. So who has left is
-- remembered for that time, beside the room: a node of protocol 1 would take it for a member. It is some leases (ms), since
-- a node may be back, or hear of the loss, later than the others. So is who was adopted, because its former node may come
-- back and know nothing of it.
local departed, young = room .. ':left', 4 * tonumber(ARGV[4])

local function bury(id, epoch, ms)
  redis.call('HSET', departed, id, epoch)
  if redis.call('PTTL', departed) < tonumber(ms) then redis.call('PEXPIRE', departed, ms) end
end

local function remove(id)
  if founding > 0 and now - founding < young * 1000 then bury(id, members[id].epoch, young) end
  left[#left + 1] = id
  left[#left + 1] = text(members[id])
  members[id] = nil
  size = size - 1
  redis.call('HDEL', room, 'm:' .. id)
  changed = true
end

local function named(first)
  local set = {}
  for i = first, #ARGV do set[ARGV[i]] = true end
  return set
end

-- reply stores the version and returns the room: what became of the call, version, 1 if this call
-- changed it, who left, who is there, founding.
local function reply(status)
  if changed then
    if version == 0 then founding = tonumber(next) end
    version = tonumber(next)
    redis.call('HSET', room, 'v', founding > 0 and string.format('%s.0%.0f', next, founding) or next)
  end
  if changed or size > 0 then
    redis.call('PEXPIRE', room, size > 0 and ARGV[3] or ARGV[4])
  end
  local there = {}
  for id, m in pairs(members) do
    there[#there + 1] = id
    there[#there + 1] = text(m)
  end
  return {status, string.format('%.0f', version), changed and 1 or 0, left, there, string.format('%.0f', founding)}
end
