-- Reads a page of a room's stream and the position at its top. Where there is none, it may create one (ARGV[7]).
-- KEYS[1] stream of publications   KEYS[2] meta: hash of epoch (e), top offset (o) and the server's run id (r)
-- ARGV[1] most publications; 0: only the top   ARGV[2] offset to read from, inclusive ('-' or '+': an end)
-- ARGV[3] '1': newest first   ARGV[4] ttl of the meta, ms   ARGV[5] an epoch, in case a new one is needed
-- ARGV[6] size of the history: older publications, stored while the room's setting was larger, are not read
-- ARGV[7] ttl of a stream without any publication, ms; '0': create none
-- ARGV[8] this server's run id, and others that count as good; with any other, a stream gets a new epoch (publish.lua)
-- Returns {epoch, top offset, entries of XRANGE}; the epoch is empty where there is no stream
local meta = redis.call('HMGET', KEYS[2], 'e', 'o', 'r')
local epoch, top, run_id = meta[1], meta[2], string.match(ARGV[8], '^%S*')
if not epoch then
  if ARGV[7] == '0' then return {'', 0, {}} end
  epoch, top = ARGV[5], 0
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'e', epoch, 'o', 0, 'r', run_id)
elseif meta[3] ~= run_id then
  local before, good = meta[3] or '', ' ' .. ARGV[8] .. ' '
  if before == '' or not string.find(good, ' ' .. before .. ' ', 1, true) then epoch = ARGV[5] end
  redis.call('HSET', KEYS[2], 'e', epoch, 'r', run_id)
end
if tonumber(top) > 0 then
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
elseif ARGV[7] ~= '0' then
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
end
local entries = {}
if ARGV[1] ~= '0' then
  local oldest = math.max(tonumber(top) - tonumber(ARGV[6]) + 1, 0)
  if ARGV[3] == '1' then
    entries = redis.call('XREVRANGE', KEYS[1], ARGV[2], oldest, 'COUNT', ARGV[1])
  else
    local begin = math.max(tonumber(ARGV[2]) or 0, oldest)
    entries = redis.call('XRANGE', KEYS[1], begin, '+', 'COUNT', ARGV[1])
  end
end
return {epoch, tonumber(top), entries}
