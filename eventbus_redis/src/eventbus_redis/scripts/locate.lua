-- KEYS: meta, nodes, owners
-- ARGV: clients
-- Returns for each client the row of its owner, or nothing if it has no live owner.
local rows = redis.call('HMGET', KEYS[3], unpack(ARGV))
for i, row in ipairs(rows) do
  local _, incarnation, node = parse(row)
  if not (incarnation and alive(KEYS[2], member(node, incarnation))) then
    rows[i] = false
  end
end
return rows
