-- Takes a worker's lease for some time more, and finds the workers whose lease has ended.
-- KEYS[1] leases: sorted set of worker -> end, Unix ms by this server's clock   ARGV[1] worker   ARGV[2] for how long, ms
-- Returns {1 when the worker was not taken for dead, workers whose lease has ended}: nobody where its own had ended as
-- well, for where nothing could be written for a while all are late, and the next time will tell who is dead
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local had = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local was_late = not had or tonumber(had) <= now
return {had and 1 or 0, was_late and {} or redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)}
