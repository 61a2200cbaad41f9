-- Renews a worker's lease, and finds the workers whose lease has expired.
-- KEYS[1] leases: sorted set of worker -> end, Unix ms by this server's clock   ARGV[1] worker   ARGV[2] duration, ms
-- Returns {1 when the worker still had a lease, workers whose lease has expired}. The list is empty if the worker's own
-- lease had expired. Then nothing could be written for a while and all workers are late; the next call finds the dead.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local had = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
local was_late = not had or tonumber(had) <= now
return {had and 1 or 0, was_late and {} or redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)}
