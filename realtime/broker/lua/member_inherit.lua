-- Gives a member of a dead worker to another worker. Of several callers, the first one gets it.
-- KEYS[1] members: hash of connection id -> owner, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] connection id   ARGV[2] the owner so far   ARGV[3] the new owner
-- Returns {1 or 0: whether its leave is announced, info as msgpack}, or false when ARGV[2] did not own it any more
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return false end
local worker, announced, info = string.match(value, '^(%S+) (%d) (.*)$')
if worker ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. announced .. ' ' .. info)
return {announced, info}
