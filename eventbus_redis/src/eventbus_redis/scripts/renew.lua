-- KEYS: nodes, node, then what else shall stay while somebody renews
-- ARGV: node, incarnation, lease, changes that we know of, milliseconds that the keys shall stay
-- Returns 1, or 0 if the lease has ended or the server has forgotten changes that it had confirmed.
local nodes, node = KEYS[1], KEYS[2]
local who = member(ARGV[1], ARGV[2])
if not alive(nodes, who) then
  return 0
end
-- After a crash or a failover the server may lack its last moments. A claim that got lost so is
-- lost for good unless the node enters again; the lease alone would not show it.
if (tonumber(redis.call('HGET', node, 'changes') or 0) or 0) < tonumber(ARGV[4]) then
  redis.call('ZADD', nodes, 'XX', 0, who)
  return 0
end
redis.call('ZADD', nodes, 'XX', text(now + ARGV[3]), who)
keep(ARGV[5])
return 1
