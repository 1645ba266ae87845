-- Reads a page of a retained stream.
-- KEYS: position, entries
-- ARGV: offset from which, bytes after which the page ends
-- Returns nothing if there is no such stream; else its epoch, top and fingerprint, and for each entry the offset of its
-- last event, its fingerprint, its number of events and its body.
local facts = redis.call('HMGET', KEYS[1], 'epoch', 'top', 'fingerprint', 'lifetime')
if not (facts[1] and facts[2] and facts[3] and facts[4]) then
  return false
end
local clock = redis.call('TIME')
local expired = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(facts[4])
local answer = { facts[1], facts[2], facts[3] }
local start, size = ARGV[1], 0
while size < tonumber(ARGV[2]) do
  local found = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', 16)
  for _, entry in ipairs(found) do
    local fields = entry[2]
    if tonumber(fields[2]) > expired and size < tonumber(ARGV[2]) then
      local last, fingerprint = string.match(entry[1], '^(%d+)-(%d+)$')
      answer[#answer + 1] = last
      answer[#answer + 1] = fingerprint
      answer[#answer + 1] = fields[4]
      answer[#answer + 1] = fields[6]
      size = size + #fields[6]
    end
  end
  if #found < 16 then
    return answer
  end
  start = '(' .. found[#found][1]
end
return answer
