-- Removes a member of a room, and announces its leave. Of several callers, the first one removes it.
-- KEYS[1] members: hash of connection id -> owner, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] connection id   ARGV[2] channel   ARGV[3] '1': publish the leave; '0': do not; '?': as the member was added
-- ARGV[4] remove it only where this worker owns it; empty: always
-- ARGV[5] the command to publish with
-- Returns {the info as msgpack, how many members are left}, or false when nothing was removed
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return false end
local worker, announced, info = string.match(value, '^(%S+) (%d) (.*)$')
if ARGV[4] ~= '' and worker ~= ARGV[4] then return false end
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[3] == '1' or (ARGV[3] == '?' and announced == '1') then
  redis.call(ARGV[5], ARGV[2], 'l:' .. info)
end
return {info, redis.call('HLEN', KEYS[1])}
