-- Removes a member of a room, and tells of it. Whoever is first removes; for all others nobody was there.
-- KEYS[1] members: hash of client -> worker, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] client   ARGV[2] channel   ARGV[3] '1' or '0': tell of it; '?': if its leave is announced
-- ARGV[4] remove it only where this worker owns it; empty: whoever does
-- ARGV[5] the command to publish by
-- Returns {the info as msgpack, how many are left}, or false when nobody was removed
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return false end
local worker, announced, info = string.match(value, '^(%S+) (%d) (.*)$')
if ARGV[4] ~= '' and worker ~= ARGV[4] then return false end
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[3] == '1' or (ARGV[3] == '?' and announced == '1') then
  redis.call(ARGV[5], ARGV[2], 'l:' .. info)
end
return {info, redis.call('HLEN', KEYS[1])}
