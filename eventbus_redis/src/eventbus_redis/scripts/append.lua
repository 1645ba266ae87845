-- Appends an entry to a retained stream.
-- KEYS: position, entries
-- ARGV: an epoch for a new stream, fingerprint, number of events, body, most events, most bytes, milliseconds to keep
--       entries, milliseconds to keep the position, offset behind which the entry may be already (-1: it is not)
-- Returns the epoch, the offset of the last event, and the fingerprint of its entry. With no events nothing is appended.
-- An entry has the id "offset of its last event"-"fingerprint", and fields: t (time), n (number of events), b (body),
-- s (bytes of all bodies before it).
local position, entries = KEYS[1], KEYS[2]
local fingerprint, events, body, after = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[9])
local most_events, most_bytes, lifetime = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000) -- milliseconds

local facts = redis.call('HMGET', position, 'epoch', 'top', 'fingerprint', 'time', 'bytes', 'before', 'since')
local epoch, top, bytes = facts[1], tonumber(facts[2] or 0), tonumber(facts[5] or 0)
now = math.max(now, tonumber(facts[4] or 0)) -- in a stream time never goes back, so entries end in their order
-- Of the first entry: no more bytes were before it, and it is no older. Reading it for every append would cost more.
local before, since = tonumber(facts[6] or 0), tonumber(facts[7] or now)
if not epoch then -- a new stream, or its position was lost or evicted
  epoch, top, bytes, before, since = ARGV[1], 0, 0, 0, now
  redis.call('DEL', entries)
elseif events == 0 then
  redis.call('PEXPIRE', position, ARGV[8])
  return { epoch, facts[2], facts[3] }
elseif after >= 0 then
  after = after <= top and after or 0
  for _, entry in ipairs(redis.call('XRANGE', entries, after + 1, '+')) do
    local last, found = string.match(entry[1], '^(%d+)-(%d+)$')
    if found == fingerprint then
      return { epoch, last, fingerprint }
    end
  end
end

local last = top + events
if events > 0 then
  redis.call('XADD', entries, 'MINID', '=', math.max(0, last - most_events + 1),
    string.format('%.0f-%s', last, fingerprint), 't', now, 'n', events, 'b', body, 's', bytes)
  bytes = bytes + #body
end

local function beyond()
  return bytes - before > most_bytes or since <= now - lifetime
end

while beyond() do
  local head = redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
  if not head then -- all are gone, or were lost or evicted
    before, since = bytes, now
    break
  end
  since, before = tonumber(head[2][2]), tonumber(head[2][8])
  if beyond() then
    redis.call('XDEL', entries, head[1])
    before = before + #head[2][6]
  end
end

redis.call('HSET', position, 'epoch', epoch, 'top', last, 'fingerprint', fingerprint, 'lifetime', ARGV[7],
  'time', now, 'bytes', bytes, 'before', before, 'since', since)
redis.call('PEXPIRE', position, ARGV[8])
redis.call('PEXPIRE', entries, ARGV[7])
return { epoch, last, fingerprint }
