-- Counts one action, if the rate allows it now (GCRA; realtime/timing/rate.py explains it).
-- KEYS[1] the time at which all counted actions are paid off, Unix ms by this server's clock
-- ARGV[1] what one more action adds to it, ms   ARGV[2] the period, ms
-- Returns 1, or 0 when the action comes too soon
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local paid = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + ARGV[1]
if paid - now > ARGV[2] + 0.01 then return 0 end
redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.ceil(paid - now))
return 1
