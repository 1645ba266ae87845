-- KEYS: nodes, owners
-- ARGV: prefix of the sets of held clients, prefix of the nodes' own keys, clients to free at the most,
--       and whose (else those of the node that has been dead for longest)
-- Returns 1, or 0 if there was nothing to do. Any number of nodes may sweep at the same time.
local nodes, owners = KEYS[1], KEYS[2]
local limit = tonumber(ARGV[3])
local who = ARGV[4] or redis.call('ZRANGEBYSCORE', nodes, '-inf', text(now), 'LIMIT', 0, 1)[1]
if not who or not redis.call('ZSCORE', nodes, who) or alive(nodes, who) then
  return 0
end
local node, incarnation = string.match(who, '^([%w._-]+) (%d+)$')
if not node then
  redis.call('ZREM', nodes, who) -- not of our making
  return 1
end

local clients = redis.call('SPOP', ARGV[1] .. incarnation, limit)
if #clients > 0 then
  local rows = redis.call('HMGET', owners, unpack(clients))
  local free = {}
  for i, client in ipairs(clients) do
    local _, owner = parse(rows[i])
    if owner == incarnation then
      free[#free + 1] = client
    end
  end
  if #free > 0 then
    redis.call('HDEL', owners, unpack(free))
  end
end
if #clients < limit then
  redis.call('ZREM', nodes, who)
  if redis.call('HGET', ARGV[2] .. node, 'incarnation') == incarnation then
    redis.call('DEL', ARGV[2] .. node)
  end
end
return 1
