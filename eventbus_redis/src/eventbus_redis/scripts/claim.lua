-- KEYS: meta, nodes, owners, node, held of this incarnation
-- ARGV: node, incarnation, lease, number of this call, floor of numbers, 1 to take over, clients ...
-- Returns for each client its new epoch and the row of its former owner, if any; or, if a live owner keeps it,
-- 0 and the row. Returns nothing if the lease of this node has ended.
-- The set of a former owner keeps the client: only `forget` takes it out, since that key is not known before.
local nodes, owners, node, held = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, incarnation, takeover = ARGV[1], ARGV[2], ARGV[6] == '1'
resume(nodes, member(me, incarnation), ARGV[3])
if not alive(nodes, member(me, incarnation)) then
  return false
end

local clients = { unpack(ARGV, 7) }
local rows = redis.call('HMGET', owners, unpack(clients))
local last = last_number(ARGV[5])
local answer, changed, claimed, fresh, losses = {}, {}, {}, {}, {}
for i, client in ipairs(clients) do
  local row = fresh[client] or rows[i]
  local _, former, owner = parse(row)
  local previous = former and alive(nodes, member(owner, former)) and row or false
  local epoch = 0
  if takeover or not previous then
    last = last + 1
    epoch = last
    fresh[client] = text(epoch) .. ' ' .. incarnation .. ' ' .. me
    changed[#changed + 1] = client
    changed[#changed + 1] = fresh[client]
    claimed[#claimed + 1] = client
    if previous and former ~= incarnation then
      losses[former] = epoch
    end
  end
  answer[#answer + 1] = epoch
  -- A dead owner is named too: other nodes may still send to it, and must be told.
  answer[#answer + 1] = previous or (former ~= nil and row) or false
end
if #claimed > 0 then
  redis.call('HSET', owners, unpack(changed))
  redis.call('SADD', held, unpack(claimed))
  redis.call('HSET', meta, 'last', text(last), 'beat', text(now))
end
for former, epoch in pairs(losses) do
  redis.call('HSET', meta, lost(former), text(epoch))
end
record_change(node, ARGV[4])
return answer
