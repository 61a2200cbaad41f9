-- Registers a member of a room, owned by a worker, and announces its join.
-- KEYS[1] members: hash of connection id -> owner, whether its leave is announced (1 or 0), info as msgpack
-- ARGV[1] connection id   ARGV[2] the value   ARGV[3] channel   ARGV[4] the join to publish, or empty
-- ARGV[5] '0': publish the join; '1': only if the member was not present; '2': as 1, and do nothing if another worker
-- owns the member
-- ARGV[6] the command to publish with   ARGV[7] the worker
-- Returns 1, or 0 when it did nothing
if ARGV[5] == '2' then
  local value = redis.call('HGET', KEYS[1], ARGV[1])
  if value and string.match(value, '^(%S+)') ~= ARGV[7] then return 0 end
end
local is_new = redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 1
if ARGV[4] ~= '' and (is_new or ARGV[5] == '0') then redis.call(ARGV[6], ARGV[3], 'j:' .. ARGV[4]) end
return 1
