-- Gives a member of a dead worker to another one. Whoever is first has it.
-- KEYS[1] members: hash of client -> worker, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] client   ARGV[2] the worker that has it   ARGV[3] the worker that has it from now on
-- Returns {1 or 0: whether its leave is announced, info as msgpack}, or false when it was no longer that worker's
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return false end
local worker, announced, info = string.match(value, '^(%S+) (%d) (.*)$')
if worker ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. announced .. ' ' .. info)
return {announced, info}
