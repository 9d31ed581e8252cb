-- Apply the class ``GcraState`` (gcra_state.py) in Redis, step by step in the same order; a test compares the two command by command.
--
-- KEYS  1: the state of one model, a hash. 2: its users, a sorted set of random names with the instant each was last seen.
-- ARGV  1: "take", "adjust" or "look".
--       2: the caller's time in microseconds; empty: use the server's.
--       3: how far the caller's time may move forward at once; empty: any, for tests with their own clock. Does not bound the
--          server's time.
--       take:    4 name of the user, 5 horizon, 6 latest, 7 spacing, 8 seen, 9 claimant, then name, cost, burst, known of each bucket.
--                Answers {reserved, wait, start, gated, version, hosts, time until each bucket is full ...}.
--       adjust:  4 start, 5 pause, 6 opened, 7 claimant, 8 number of credits, then name and value of each credit and of each
--                bucket to fill. Answers 1.
--       look:    changes nothing and answers the time, to check that scripts are allowed here.
--
-- All numbers are integers below 2^53, which a double holds exactly and "%.0f" writes exactly; Lua's default format would cut them to
-- 14 digits. Field "fill" is the longest burst seen; it sets the time to live.

local function text(number)
  return string.format('%.0f', number)
end

local now
if ARGV[2] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[2])
end
if ARGV[1] == 'look' then
  return now
end

local state = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local number = tonumber(fields[i + 1])
  -- This script writes no other values. NaN fails the comparison too.
  if number and math.abs(number) < 9007199254740992 then
    state[fields[i]] = number
  end
end

local changed = {}
local function set(name, value)
  if state[name] ~= value then
    state[name] = value
    changed[#changed + 1] = name
  end
end

local own_time = ARGV[2] ~= '' and ARGV[3] == ''
local last = state.last
if last and ARGV[2] == '' and now < last - 5000000 then
  -- The server's clock went back, or another server has taken over: keep the time that is left until each instant.
  for name, instant in pairs(state) do
    if name ~= 'version' and name ~= 'claimant' and name ~= 'fill' and instant > 0 then
      set(name, math.max(instant + now - last, 1))
    end
  end
  last = now
end
if last then
  if ARGV[3] ~= '' then
    now = math.min(now, last + tonumber(ARGV[3]))
  end
  now = math.max(now, last)
end
set('last', now)

-- Keys expire by the server's clock, which a test's own clock does not move.
local shortest = own_time and 3600000 or 1000

local function keep()
  if #changed > 0 then
    local fields = {}
    for i, name in ipairs(changed) do
      fields[2 * i - 1] = name
      fields[2 * i] = text(state[name])
    end
    redis.call('HSET', KEYS[1], unpack(fields))
  end
  local skip = {last = true, version = true, claimant = true, claim_start = true, fill = true}
  local idle = now
  for name, instant in pairs(state) do
    if not skip[name] and instant > idle then
      idle = instant
    end
  end
  local lifetime = math.ceil((idle - now) / 1000) + 2 * math.ceil((state.fill or 0) / 1000)
  redis.call('PEXPIRE', KEYS[1], text(math.max(shortest, lifetime)))
end

if ARGV[1] == 'adjust' then
  local start, pause, opened, claimant = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1', tonumber(ARGV[7])
  local after = 9 + 2 * tonumber(ARGV[8])
  for i = 9, after - 2, 2 do
    local credit, full = tonumber(ARGV[i + 1]), state[ARGV[i]]
    if credit < 0 then
      set(ARGV[i], math.max(full or now, now) - credit)
    elseif full then
      set(ARGV[i], math.max(full - credit, now))
    end
  end
  for i = after, #ARGV - 1, 2 do
    local refill_time, full = tonumber(ARGV[i + 1]), state[ARGV[i]]
    if not full or full < now + refill_time then
      set(ARGV[i], now + refill_time)
    end
  end
  if start ~= 0 and (state.start or 0) == start then
    set('start', now)
  end
  if opened then
    set('gate', 0)
  end
  if pause ~= 0 then
    set('gate', math.max(state.gate or 0, now + pause))
  end
  if claimant ~= 0 and (state.claimant or 0) == claimant then
    set('claimant', 0)
    set('claim_start', 0)
    set('claim_until', 0)
  end
  keep()
  return 1
end

local horizon, latest, spacing = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local seen, claimant = tonumber(ARGV[8]), tonumber(ARGV[9])
local version = state.version or 0
local state_lost = version < seen
version = math.max(version, seen) + 1
set('version', version)
-- No caller means more than this: 10 s; 60 s and one spacing; 2 s.
local newest = math.min(state.start or 0, now + 10000000)
local gate = math.min(state.gate or 0, now + 60000000 + spacing)
local claimed = math.min(state.claim_until or 0, now + 2000000)
for name, instant in pairs({start = newest, gate = gate, claim_until = claimed}) do
  if state[name] then
    set(name, instant)
  end
end
newest = math.max(now, newest)
local start = math.max(newest, gate)
local longest = state.fill or 0
for i = 10, #ARGV, 4 do
  local name, cost, burst, known = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  longest = math.max(longest, burst)
  local full = state[name]
  if not full or (state_lost and full < now + known) then
    full = now + known
    set(name, full)
  end
  if cost ~= 0 then
    if full > newest + 2 * burst then
      full = newest + 2 * burst
      set(name, full)
    end
    local ready_at = full
    if cost < burst then
      ready_at = full + cost - burst
    end
    start = math.max(start, ready_at)
  end
end
set('fill', longest)
local holder = state.claimant or 0
local claimed_by_other = holder ~= 0 and holder ~= claimant and now < claimed
if claimed_by_other then
  start = math.max(start, state.claim_start or 0)
end
local wait = start - now
local gated = gate > 0
local reserved = not claimed_by_other and wait <= horizon and wait <= latest
if reserved then
  set('start', start)
  for i = 10, #ARGV, 4 do
    local cost = tonumber(ARGV[i + 1])
    if cost ~= 0 then
      set(ARGV[i], math.max(state[ARGV[i]], start) + cost)
    end
  end
  if gated then
    set('gate', start + spacing)
  end
end
if not claimed_by_other then
  local keeps_claim = not reserved and wait <= latest
  set('claimant', keeps_claim and claimant or 0)
  set('claim_start', keeps_claim and start or 0)
  set('claim_until', keeps_claim and now + 2000000 or 0)
end
keep()

local member = ARGV[4]
local seen_at = tonumber(redis.call('ZSCORE', KEYS[2], member) or nil)
if not seen_at or now < seen_at or now - seen_at >= 5000000 then
  redis.call('ZADD', KEYS[2], text(now), member)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(now - 15000000))
  redis.call('PEXPIRE', KEYS[2], text(math.max(shortest, 16000)))
end
local answer = {
  reserved and 1 or 0, wait, start, gated and 1 or 0, version, redis.call('ZCOUNT', KEYS[2], text(now - 15000000), '+inf')
}
for i = 10, #ARGV, 4 do
  answer[#answer + 1] = math.max(state[ARGV[i]] - now, 0)
end
return answer
