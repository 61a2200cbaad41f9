-- Adds one publication to a room and sends it to every subscribed worker.
-- KEYS[1] stream of publications   KEYS[2] meta: hash of epoch (e), top offset (o) and the server's run id (r)
-- KEYS[3] result of an idempotency key, or the meta key again where there is none
-- ARGV[1] channel   ARGV[2] payload   ARGV[3] size of the history   ARGV[4] its ttl, ms   ARGV[5] ttl of the meta, ms
-- ARGV[6] an epoch, in case a new one is needed   ARGV[7] ttl of the idempotency key, ms; 0: there is none
-- ARGV[8] the command to publish with: PUBLISH, or SPUBLISH in a cluster
-- ARGV[9] this server's run id, then those of healthy servers from which a cluster may have moved the stream.
-- A stream of any other run id may have lost its end: a replica was promoted, or acknowledged writes were not on disk
-- yet. Its offsets go on under a new epoch, so that no position means two publications.
-- Returns {epoch, offset, 1 when the idempotency key was used before}
if ARGV[7] ~= '0' then
  local done = redis.call('HMGET', KEYS[3], 'e', 'o')
  if done[2] then return {done[1], tonumber(done[2]), 1} end
end
local size, epoch, offset, run_id = tonumber(ARGV[3]), '', 0, string.match(ARGV[9], '^%S*')
if size > 0 then
  local meta = redis.call('HMGET', KEYS[2], 'e', 'r')
  epoch = meta[1]
  if not epoch then
    epoch = ARGV[6]
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[2], 'e', epoch, 'o', 0, 'r', run_id)
  elseif meta[2] ~= run_id then
    local before, good = meta[2] or '', ' ' .. ARGV[9] .. ' '
    if before == '' or not string.find(good, ' ' .. before .. ' ', 1, true) then epoch = ARGV[6] end
    redis.call('HSET', KEYS[2], 'e', epoch, 'r', run_id)
  end
  offset = redis.call('HINCRBY', KEYS[2], 'o', 1)
  redis.call('XADD', KEYS[1], 'MAXLEN', size, offset .. '-0', 'p', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
if ARGV[7] ~= '0' then
  redis.call('HSET', KEYS[3], 'e', epoch, 'o', offset)
  redis.call('PEXPIRE', KEYS[3], ARGV[7])
end
redis.call(ARGV[8], ARGV[1], 'p:' .. epoch .. ':' .. offset .. ':' .. ARGV[2])
return {epoch, offset, 0}
