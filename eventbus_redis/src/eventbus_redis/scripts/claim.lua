-- KEYS: nodes, owners, meta, node
-- ARGV: prefix of the sets of held clients, node, incarnation, 1 to take over, clients ...
-- Returns for each client its new epoch and the row of the owner before, if any; or, if a live
-- owner keeps it, 0 and the row. Returns nothing if our own lease has ended.
local nodes, owners, meta, node = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local held, me, incarnation, takeover = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
if not alive(nodes, member(me, incarnation)) then
  return false
end

local clients = { unpack(ARGV, 5) }
local rows = redis.call('HMGET', owners, unpack(clients))
local last = last_number(meta)
local answer, changed, claimed, fresh = {}, {}, {}, {}
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
    if former and former ~= incarnation then
      redis.call('SREM', held .. former, client)
    end
  end
  answer[#answer + 1] = epoch
  -- A dead owner is named too: others may still send to it, and have to be told.
  answer[#answer + 1] = previous or (former ~= nil and row) or false
end
if #claimed > 0 then
  redis.call('HSET', owners, unpack(changed))
  redis.call('SADD', held .. incarnation, unpack(claimed))
  redis.call('HSET', meta, 'last', text(last))
end
redis.call('HINCRBY', node, 'changes', #clients)
return answer
