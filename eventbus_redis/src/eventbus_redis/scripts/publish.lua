-- Publishes a frame at the primary alone: replicas have no subscribers, and PUBLISH would be sent to them.
-- KEYS: a key that never exists
-- ARGV: channel, frame
-- Returns the number of receivers, or the error with which this server rejects writes if it is not the primary, or not
-- any more. Other errors of a write, for want of memory or of disk space, do not concern frames.
redis.set_repl(redis.REPL_NONE)
local attempt = redis.pcall('DEL', KEYS[1])
if type(attempt) == 'table' and attempt.err and (
  string.find(attempt.err, 'READONLY', 1, true) or string.find(attempt.err, 'NOREPLICAS', 1, true)
) then
  return attempt
end
return redis.call('PUBLISH', ARGV[1], ARGV[2])
