-- KEYS: owners, node
-- ARGV: prefix of the sets of held clients, then client, epoch, ...
local owners, node = KEYS[1], KEYS[2]
for i = 2, #ARGV, 2 do
  local epoch, incarnation = parse(redis.call('HGET', owners, ARGV[i]))
  if epoch == ARGV[i + 1] then
    redis.call('HDEL', owners, ARGV[i])
    redis.call('SREM', ARGV[1] .. incarnation, ARGV[i])
  end
end
if redis.call('EXISTS', node) == 1 then
  redis.call('HINCRBY', node, 'changes', (#ARGV - 1) / 2)
end
