-- Registers a member of a room, owned by a worker, and tells of it.
-- KEYS[1] members: hash of client -> worker, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] client   ARGV[2] the value   ARGV[3] channel   ARGV[4] the join to be told, or empty
-- ARGV[5] '1': tell of it only if nobody was there; '2': and leave it alone if another worker has it
-- ARGV[6] the command to publish by   ARGV[7] the worker
if ARGV[5] == '2' then
  local value = redis.call('HGET', KEYS[1], ARGV[1])
  if value and string.match(value, '^(%S+)') ~= ARGV[7] then return 0 end
end
local is_new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 1
if ARGV[4] ~= '' and (is_new or ARGV[5] == '0') then redis.call(ARGV[6], ARGV[3], 'j:' .. ARGV[4]) end
return 1
