-- Stands before each script; KEYS[1] is always meta. Times are microseconds: numbers of that size are exact in Lua, but
-- tostring() would round them.
local meta = KEYS[1]
local LARGEST = 2 ^ 53 -- larger numbers are not exact

local function text(number)
  return string.format('%.0f', number)
end

local function number(value)
  value = tonumber(value or 0) or 0
  return value >= 0 and value < LARGEST and value or 0
end

local facts = redis.call('HMGET', meta, 'last', 'clock', 'beat', 'since', 'until')
local clock = redis.call('TIME')
local server_time = clock[1] * 1000000 + clock[2]

-- The time of the directory. It is the server's clock, but never goes back: if that clock is set back, or that of a new
-- primary is behind, time goes on from the last reading (meta's field clock: our time, and the server's clock then).
local now = server_time
local reached, at = string.match(facts[2] or '', '^(%d+) (%d+)$')
reached, at = tonumber(reached), tonumber(at)
if reached and server_time < reached and reached < LARGEST then
  now = reached + math.max(0, server_time - at)
end

-- The last number issued: incarnations and epochs come from one sequence. It is never behind the clock, nor behind the
-- largest number that the caller knows of (floor), so that numbers grow even if the server has lost its latest data.
local function last_number(floor)
  return math.max(number(facts[1]), number(floor), now)
end

-- Records the time and the last number.
local function record(last)
  redis.call('HSET', meta, 'clock', text(now) .. ' ' .. text(server_time), 'last', text(last))
end

-- The field of meta with the epoch of the latest claim that took a client from an incarnation while it lived; 0 if none.
local function lost(incarnation)
  return 'lost:' .. incarnation
end

local function member(node, incarnation)
  return node .. ' ' .. incarnation
end

-- Epoch, incarnation and node of a row of owners, which may end with a seal; nothing if there is no row, or another program wrote it.
local function parse(row)
  local epoch, incarnation, node = string.match(row or '', '^(%d+) (%d+) ([%w._-]+) ?[%w_=-]*$')
  if node and #epoch <= 18 and #incarnation <= 18 and #node <= 64 then
    return epoch, incarnation, node
  end
end

-- The grace. If no node was served for long (beat is the time of the last entry, renewal or claim), a server that hung, or
-- another that took its place, may just have come back, and the first call is no better than the second: each node whose
-- lease was running then (since) is alive for one more lease (until). A call of such a node is what shows it.
local beat, since, grace = number(facts[3]), number(facts[4]), number(facts[5])
local known = {}

local function alive(nodes, entry)
  if known[entry] == nil then
    local deadline = tonumber(redis.call('ZSCORE', nodes, entry) or nil)
    known[entry] = deadline ~= nil and (deadline > now or (now < grace and deadline >= since))
  end
  return known[entry]
end

-- Starts the grace if this call shows that the server is back; lease is that of the caller.
local function resume(nodes, entry, lease)
  if beat == 0 or now - beat <= lease / 2 then
    return
  end
  local deadline = tonumber(redis.call('ZSCORE', nodes, entry) or nil)
  if deadline and deadline >= beat then
    since, grace, beat = beat, now + lease, now
    redis.call('HSET', meta, 'beat', text(beat), 'since', text(since), 'until', text(grace))
  end
end

-- Returns the member of nodes that has been dead for the longest time, if any: the next to sweep.
local function longest_dead(nodes)
  local latest = now < grace and '(' .. text(since) or text(now)
  local entry = redis.call('ZRANGEBYSCORE', nodes, '-inf', latest, 'LIMIT', 0, 1)[1]
  if entry and not string.match(entry, '^[%w._-]+ %d+$') then
    redis.call('ZREM', nodes, entry) -- another program wrote it
    return false
  end
  return entry or false
end

-- Records the number of a call that changes owners. Each node numbers its calls: at the next renewal a smaller number
-- than that of its last answered call shows that the server has lost some.
local function record_change(node, call)
  local before = tonumber(redis.call('HGET', node, 'changes') or nil)
  if before and tonumber(call) > before then
    redis.call('HSET', node, 'changes', call)
  end
end

-- Makes all KEYS expire in so many milliseconds, unless a later call puts it off.
local function keep(milliseconds)
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, milliseconds)
  end
end
