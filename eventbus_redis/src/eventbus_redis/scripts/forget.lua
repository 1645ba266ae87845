-- KEYS: meta, owners, held of a former owner
-- ARGV: its incarnation, clients that were taken over from it
local former, clients = ARGV[1], { unpack(ARGV, 2) }
local lost = {}
for i, row in ipairs(redis.call('HMGET', KEYS[2], unpack(clients))) do
  local _, owner = parse(row)
  if owner ~= former then -- else it has claimed the client again
    lost[#lost + 1] = clients[i]
  end
end
if #lost > 0 then
  redis.call('SREM', KEYS[3], unpack(lost))
end
