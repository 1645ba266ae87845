-- KEYS: meta, nodes, node
-- ARGV: node, incarnation
-- Ends the lease, and with it all claims; the sweep deletes their rows.
local nodes, node = KEYS[2], KEYS[3]
redis.call('ZADD', nodes, 'XX', 0, member(ARGV[1], ARGV[2]))
if redis.call('HGET', node, 'incarnation') == ARGV[2] then
  redis.call('DEL', node)
end
