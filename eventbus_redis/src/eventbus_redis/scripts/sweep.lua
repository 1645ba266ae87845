-- KEYS: meta, nodes, owners, held of the incarnation to sweep, its node
-- ARGV: its member of nodes, its incarnation, number of clients to free at most
-- Returns the member to sweep next, which may be the same, or nothing. Several nodes may sweep at the same time.
local nodes, owners, held, node = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local entry, incarnation, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not redis.call('ZSCORE', nodes, entry) or alive(nodes, entry) then
  return longest_dead(nodes)
end

local clients = redis.call('SPOP', held, limit)
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
if #clients == limit then
  return entry
end
redis.call('ZREM', nodes, entry)
redis.call('HDEL', meta, lost(incarnation))
if redis.call('HGET', node, 'incarnation') == incarnation then
  redis.call('DEL', node)
end
return longest_dead(nodes)
