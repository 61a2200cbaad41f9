-- Registers a member of a room, owned by a worker, and tells of it.
-- KEYS[1] members: hash of client -> worker, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] client   ARGV[2] the value   ARGV[3] channel   ARGV[4] the join to be told, or empty
-- ARGV[5] '1': tell of it only if nobody was there   ARGV[6] the command to publish by
local is_new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 1
if ARGV[4] ~= '' and (is_new or ARGV[5] ~= '1') then redis.call(ARGV[6], ARGV[3], 'j:' .. ARGV[4]) end
return 1
