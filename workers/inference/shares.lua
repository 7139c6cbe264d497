-- Shares of one model's limits among the processes that use it. One call is atomic, and Redis's clock is the only one.
--
-- KEYS  1 the model's members, a hash   2 since when this Redis has known any shares
-- ARGV  1 who asks   2 the number of the call, which only grows   3 how long a grant lasts, in ms
--       4 how long a place is kept while others have none, in ms   5 how long to be careful after a loss, in ms
--       then for places, and again for rate (in millionths of a request a second):
--       the model's limit or 0 for none, what is wanted, what is in use until the answer, what the caller was granted
--       and still may use
-- Returns what is granted of both; -1 when a later call of the same member has been served already.
--
-- `held` is what a member may still be using: what it was granted, or more while it shrinks. The sum of what is held
-- never grows above the limit, so the sum of what is granted never does.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, call = ARGV[1], tonumber(ARGV[2])
local ttl, slice, care = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST = 6

local function asked(resource, at)
  return tonumber(ARGV[FIRST + (resource - 1) * 4 + at])
end

local function load()
  local members, careful_until, rows = {}, 0, redis.call('HGETALL', KEYS[1])
  for at = 1, #rows, 2 do
    local numbers = {}
    for number in rows[at + 1]:gmatch('%S+') do
      numbers[#numbers + 1] = tonumber(number)
    end
    if rows[at] == 'careful' then
      careful_until = numbers[1]
    else
      local member = {call = numbers[1], expires = numbers[2], turn = numbers[3], wanted = {numbers[4], numbers[7]},
                      held = {numbers[5], numbers[8]}, granted = {numbers[6], numbers[9]}}
      if member.expires <= now then
        redis.call('HDEL', KEYS[1], rows[at])
      else
        members[rows[at]] = member
      end
    end
  end
  return members, careful_until
end

local function save(id, member)
  redis.call('HSET', KEYS[1], id, string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f', member.call,
    member.expires, member.turn, member.wanted[1], member.held[1], member.granted[1], member.wanted[2],
    member.held[2], member.granted[2]))
end

-- Who comes first to the first unit: holders for a while, then who has waited longest, then who has held longest last.
local function rank(member, resource)
  if member.granted[resource] <= 0 then
    return 2, member.turn
  elseif now - member.turn < slice then
    return 1, member.turn
  end
  return 3, -member.turn
end

-- My part of the limit: one unit for each while there are any, and the rest max-min fair.
local function fair(members, resource, limit)
  local hungry = {}
  for id, member in pairs(members) do
    if member.wanted[resource] >= 1 then
      local group, turn = rank(member, resource)
      hungry[#hungry + 1] = {id = id, group = group, turn = turn, more = member.wanted[resource] - 1}
    end
  end
  table.sort(hungry, function(a, b)
    if a.group ~= b.group then return a.group < b.group end
    if a.turn ~= b.turn then return a.turn < b.turn end
    return a.id < b.id
  end)
  for at = #hungry, limit + 1, -1 do
    hungry[at] = nil
  end
  table.sort(hungry, function(a, b)
    if a.more ~= b.more then return a.more < b.more end
    return a.id < b.id
  end)
  local left = limit - #hungry
  for at, member in ipairs(hungry) do
    local more = math.min(member.more, math.floor(left / (#hungry - at + 1)))
    if member.id == me then
      return 1 + more
    end
    left = left - more
  end
  return 0
end

local members, careful_until = load()
local mine = members[me]
if mine and call <= mine.call then
  return {-1, -1}
end

-- Redis was wiped, or its clock went back: whoever holds something says so within moments, and keeps it.
local since = tonumber(redis.call('GET', KEYS[2]) or '')
if not since or since > now then
  since = now
  redis.call('SET', KEYS[2], string.format('%.0f', now))
end
if not mine and (asked(1, 3) > 0 or asked(2, 3) > 0) then
  careful_until = now + care
  redis.call('HSET', KEYS[1], 'careful', string.format('%.0f', careful_until))
end
local careful = now < since + care or now < math.min(careful_until, now + care)

mine = mine or {turn = now, granted = {0, 0}, held = {0, 0}}
mine.call, mine.expires = call, now + ttl
mine.wanted = {asked(1, 1), asked(2, 1)}
members[me] = mine

for id, member in pairs(members) do
  -- A grant lasts `ttl` at most; one that ends later was written before the clock went back.
  if member.expires > now + ttl then
    member.expires = now + ttl
    member.turn = math.min(member.turn, now)
    save(id, member)
  end
end

local had_a_place = mine.granted[1] > 0
for resource = 1, 2 do
  local limit, in_use, claim = asked(resource, 0), asked(resource, 2), asked(resource, 3)
  local granted = 0
  if limit > 0 then
    local room = limit
    for id, member in pairs(members) do
      if id ~= me then
        room = room - member.held[resource]
      end
    end
    if careful then
      room = math.min(room, claim)
    end
    granted = math.max(0, math.min(fair(members, resource, limit), room))
  end
  mine.granted[resource] = granted
  mine.held[resource] = math.max(granted, in_use)
end
if had_a_place ~= (mine.granted[1] > 0) then
  mine.turn = now
end

if mine.wanted[1] + mine.wanted[2] + mine.held[1] + mine.held[2] > 0 then
  save(me, mine)
else
  redis.call('HDEL', KEYS[1], me)
end
redis.call('PEXPIRE', KEYS[1], 2 * ttl)
return mine.granted
