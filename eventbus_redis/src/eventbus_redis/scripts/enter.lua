-- KEYS: meta, nodes, node, owners
-- ARGV: node, token of the process, lease, wire version, lanes, host, pid, milliseconds until the keys expire,
--       floor of numbers, number of the last answered call, retained topics,
--       servers that carry the partitions, seals with spaces between, of which the first is kept
-- Returns 'entered', the incarnation, the time and the generation of owners; or 'present'; or 'mismatch', the name of the
-- term and its value here.
local nodes, node, owners = KEYS[2], KEYS[3], KEYS[4]
local seal = string.match(ARGV[13], '^%S*')
local terms = { wire_version = ARGV[4], lanes = ARGV[5], retain = ARGV[11], shards = ARGV[12], seal = seal }

record(last_number(0))
if redis.call('ZCOUNT', nodes, '(' .. text(now), '+inf') == 0 then
  redis.call('HSET', meta, 'wire_version', terms.wire_version, 'lanes', terms.lanes,
    'retain', terms.retain, 'shards', terms.shards, 'seal', terms.seal)
end
for _, term in ipairs({ 'wire_version', 'lanes', 'retain', 'shards', 'seal' }) do
  local founded = redis.call('HGET', meta, term)
  if term == 'seal' and founded and founded ~= '' and string.find(' ' .. ARGV[13] .. ' ', ' ' .. founded .. ' ', 1, true) then
    founded = seal -- this node has the secret of those that entered before; its own counts from now on
    redis.call('HSET', meta, term, seal)
  end
  if not founded then
    redis.call('HSET', meta, term, terms[term]) -- the key was lost or evicted
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
    redis.call('ZADD', nodes, 'XX', 0, former) -- ends the former lease; the sweep frees its claims
  end
end

local last = last_number(ARGV[9]) + 1
local incarnation = text(last)
record(last)
redis.call('ZADD', nodes, text(now + ARGV[3]), member(ARGV[1], incarnation))
redis.call('DEL', node)
redis.call('HSET', node, 'incarnation', incarnation, 'token', ARGV[2], 'started', text(now / 1000000),
  'host', ARGV[6], 'pid', ARGV[7], 'changes', ARGV[10])
redis.call('HSET', meta, 'beat', text(now), lost(incarnation), 0)
-- No client has this name. If another entry wrote it later, the key was lost meanwhile.
if not redis.call('HGET', owners, '') then
  redis.call('HSET', owners, '', incarnation)
end
keep(ARGV[8])
return { 'entered', incarnation, text(now), redis.call('HGET', owners, '') }
