-- KEYS: nodes, owners
-- ARGV: clients
-- Returns the row of each one's live owner, or nothing.
local rows = redis.call('HMGET', KEYS[2], unpack(ARGV))
for i, row in ipairs(rows) do
  local _, incarnation, node = parse(row)
  if not (incarnation and alive(KEYS[1], member(node, incarnation))) then
    rows[i] = false
  end
end
return rows
