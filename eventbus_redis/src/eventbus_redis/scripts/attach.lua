-- KEYS: meta, owners, node
-- ARGV: incarnation, number of this call, then client, epoch, seal, ...
-- Puts each seal behind the row of its claim, in place of an earlier one.
local owners, node = KEYS[2], KEYS[3]
for i = 3, #ARGV, 3 do
  local epoch, incarnation, owner = parse(redis.call('HGET', owners, ARGV[i]))
  if epoch == ARGV[i + 1] and incarnation == ARGV[1] then
    redis.call('HSET', owners, ARGV[i], epoch .. ' ' .. incarnation .. ' ' .. owner .. ' ' .. ARGV[i + 2])
  end
end
record_change(node, ARGV[2])
