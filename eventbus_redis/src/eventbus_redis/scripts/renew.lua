-- KEYS: meta, nodes, node, owners, held of this incarnation
-- ARGV: node, incarnation, lease, number of the last answered call, floor of numbers, generation of owners,
--       milliseconds until the keys expire
-- Returns 1, or 0 if the lease has ended or the server has lost something that it had confirmed; then the time, the
-- member of nodes to sweep, if any, and the epoch of the latest claim that took a client from this node, if known.
local nodes, node, owners, held = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local incarnation, lease = ARGV[2], tonumber(ARGV[3])
local entry = member(ARGV[1], incarnation)
resume(nodes, entry, lease)
record(last_number(ARGV[5]))
if not alive(nodes, entry) then
  return { 0, text(now), longest_dead(nodes), false }
end

-- After a crash, a fail-over or an eviction the server may lack changes, or a whole key. The lease does not show that, and
-- a lost claim would stay lost: so the lease ends, and the node enters again. Each key has a part that no claim writes.
local found = redis.call('HMGET', node, 'incarnation', 'changes')
if
  found[1] ~= incarnation
  or number(found[2]) < tonumber(ARGV[4])
  or redis.call('HGET', owners, '') ~= ARGV[6]
  or redis.call('SISMEMBER', held, '') == 0
then
  redis.call('ZADD', nodes, 'XX', 0, entry)
  return { 0, text(now), longest_dead(nodes), false }
end
redis.call('ZADD', nodes, 'XX', text(now + lease), entry)
redis.call('HSET', meta, 'beat', text(now))
keep(ARGV[7])
local loss = redis.call('HGET', meta, lost(incarnation))
return { 1, text(now), longest_dead(nodes), loss and text(number(loss)) }
