-- KEYS: meta, nodes, node
-- ARGV: node, token of the process, lease, wire version, lanes, host, pid, milliseconds that the keys shall stay
-- Returns 'entered' and the incarnation, 'present', or 'mismatch', the term's name and its value here.
local meta, nodes, node = KEYS[1], KEYS[2], KEYS[3]
local terms = { wire_version = ARGV[4], lanes = ARGV[5] }

if redis.call('ZCOUNT', nodes, '(' .. text(now), '+inf') == 0 then
  redis.call('HSET', meta, 'wire_version', terms.wire_version, 'lanes', terms.lanes)
end
for _, term in ipairs({ 'wire_version', 'lanes' }) do
  local founded = redis.call('HGET', meta, term)
  if not founded then
    redis.call('HSET', meta, term, terms[term]) -- the key was lost, or evicted
  elseif founded ~= terms[term] then
    return { 'mismatch', term, founded }
  end
end

local before = redis.call('HMGET', node, 'incarnation', 'token')
if before[1] then
  local former = member(ARGV[1], before[1])
  if alive(nodes, former) then
    if before[2] ~= ARGV[2] then
      return { 'present' }
    end
    redis.call('ZADD', nodes, 'XX', 0, former) -- ends it, and leaves its claims to the sweep
  end
end

local incarnation = text(last_number(meta) + 1)
redis.call('HSET', meta, 'last', incarnation)
redis.call('ZADD', nodes, text(now + ARGV[3]), member(ARGV[1], incarnation))
redis.call('DEL', node)
redis.call('HSET', node, 'incarnation', incarnation, 'token', ARGV[2], 'started', text(now / 1000000),
  'host', ARGV[6], 'pid', ARGV[7], 'changes', 0)
keep(ARGV[8])
return { 'entered', incarnation }
