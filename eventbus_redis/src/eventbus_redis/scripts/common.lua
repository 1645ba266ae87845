-- Comes before each script. Times are microseconds of the server's clock; numbers of that size
-- are exact in Lua, but tostring() would round them.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function text(number)
  return string.format('%.0f', number)
end

-- Incarnations and epochs are drawn from one source. It is never behind the clock, so that they
-- grow even if the server lost all its data.
local function last_number(meta)
  return math.max(tonumber(redis.call('HGET', meta, 'last') or 0) or 0, now)
end

local function member(node, incarnation)
  return node .. ' ' .. incarnation
end

-- Epoch, incarnation and node of an owners' row; nothing if there is none, or it is not of our making.
local function parse(row)
  if row then
    return string.match(row, '^(%d+) (%d+) ([%w._-]+)$')
  end
end

local known = {}
local function alive(nodes, who)
  if known[who] == nil then
    local deadline = redis.call('ZSCORE', nodes, who)
    known[who] = deadline and tonumber(deadline) > now or false
  end
  return known[who]
end
