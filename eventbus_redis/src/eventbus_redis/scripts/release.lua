-- KEYS: meta, owners, node, held of this incarnation
-- ARGV: incarnation, number of this call, then client, epoch, ...
local owners, node, held = KEYS[2], KEYS[3], KEYS[4]
for i = 3, #ARGV, 2 do
  local epoch, incarnation = parse(redis.call('HGET', owners, ARGV[i]))
  if epoch == ARGV[i + 1] then
    redis.call('HDEL', owners, ARGV[i])
  end
  if epoch == ARGV[i + 1] or incarnation ~= ARGV[1] then
    redis.call('SREM', held, ARGV[i])
  end
end
record_change(node, ARGV[2])
