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
  local last = tonumber(redis.call('HGET', meta, 'last') or 0) or 0
  return last < 1e18 and math.max(last, now) or now -- no number of ours is as large
end

local function member(node, incarnation)
  return node .. ' ' .. incarnation
end

-- Epoch, incarnation and node of an owners' row; nothing if there is none, or it is not of our making.
local function parse(row)
  local epoch, incarnation, node = string.match(row or '', '^(%d+) (%d+) ([%w._-]+)$')
  if node and #epoch <= 18 and #incarnation <= 18 and #node <= 64 then
    return epoch, incarnation, node
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

-- Lets all KEYS go of themselves, unless somebody comes back to them in so many milliseconds.
local function keep(milliseconds)
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, milliseconds)
  end
end
