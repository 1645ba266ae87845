-- KEYS: meta, nodes
-- Returns the time, and the members with the ends of their leases.
local members = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
if now < grace then
  for i = 2, #members, 2 do
    if tonumber(members[i]) >= since and tonumber(members[i]) < grace then
      members[i] = text(grace)
    end
  end
end
return { text(now), members }
