package lease

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// The scripts know nothing of what records say. Each compares the records it
// was decided on with what lies there, byte by byte, and answers "changed"
// where they differ; then the caller reads again and decides anew. None may be
// run twice by the client library; all may be by the caller.
type scripts struct {
	open, activate, replace, forget, extend, shut, take, reindex, heal, count *redis.Script
}

func newScripts() scripts {
	return scripts{
		open: redis.NewScript(openScript), activate: redis.NewScript(activateScript),
		replace: redis.NewScript(replaceScript), forget: redis.NewScript(forgetScript),
		extend: redis.NewScript(extendScript), shut: redis.NewScript(shutScript),
		take: redis.NewScript(takeScript), reindex: redis.NewScript(reindexScript), heal: redis.NewScript(healScript),
		count: redis.NewScript(countScript),
	}
}

// openScript stores pending leases. A session with leases does not expire.
//
// KEYS: session, place, owner, all; for each lease its own, due, grant, rule.
// ARGV: session as read, cap of the place; for each lease id, record, due,
// opened, cap of the grant, cap of the rule.
const openScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'changed' end
local n, cap = (#KEYS - 4) / 4, tonumber(ARGV[2])
if cap > 0 and redis.call('SCARD', KEYS[2]) + n > cap then return 'place full' end
local more = {}
local function full(index, cap)
	more[index] = (more[index] or 0) + 1
	return cap > 0 and redis.call('SCARD', index) + more[index] > cap
end
for i = 0, n - 1 do
	if full(KEYS[7 + 4 * i], tonumber(ARGV[7 + 6 * i])) then return 'grant full ' .. i end
	if full(KEYS[8 + 4 * i], tonumber(ARGV[8 + 6 * i])) then return 'rule full ' .. i end
	if redis.call('EXISTS', KEYS[5 + 4 * i]) == 1 then return 'exists' end
end
for i = 0, n - 1 do
	local lease, due, grant, rule = KEYS[5 + 4 * i], KEYS[6 + 4 * i], KEYS[7 + 4 * i], KEYS[8 + 4 * i]
	local id, record, when, opened = ARGV[3 + 6 * i], ARGV[4 + 6 * i], ARGV[5 + 6 * i], ARGV[6 + 6 * i]
	redis.call('SET', lease, record)
	redis.call('ZADD', due, when, id)
	redis.call('ZADD', KEYS[4], opened, id)
	redis.call('SADD', KEYS[2], id)
	redis.call('SADD', KEYS[3], id)
	redis.call('SADD', grant, id)
	redis.call('SADD', rule, id)
end
redis.call('PERSIST', KEYS[1])
return 'done'
`

// activateScript replaces pending leases of a session that has not changed.
//
// KEYS: session; for each lease its own, due. ARGV: session as read; for each
// lease id, record as read, new record, due.
const activateScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'changed' end
local n = (#KEYS - 1) / 2
for i = 0, n - 1 do
	if redis.call('GET', KEYS[2 + 2 * i]) ~= ARGV[3 + 4 * i] then return 'changed' end
end
for i = 0, n - 1 do
	redis.call('SET', KEYS[2 + 2 * i], ARGV[4 + 4 * i])
	redis.call('ZADD', KEYS[3 + 2 * i], ARGV[5 + 4 * i], ARGV[2 + 4 * i])
end
return 'done'
`

// replaceScript replaces one lease. KEYS: lease, due. ARGV: id, record as
// read, new record, due.
const replaceScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'changed' end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
return 'done'
`

// forgetScript forgets one lease. With the last one its session may expire
// again: an hour after its expiry, so that clocks need not agree.
//
// KEYS: lease, due, all, place, owner, grant, rule, session. ARGV: id, record
// as read.
const forgetScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'changed' end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
for i = 4, 7 do redis.call('SREM', KEYS[i], ARGV[1]) end
if redis.call('EXISTS', KEYS[5]) == 0 then
	local session = redis.call('GET', KEYS[8])
	if session then
		local t = redis.call('TIME')
		local expires = tonumber(string.match(session, '^1:%x+:(%d+):') or 0)
		redis.call('PEXPIREAT', KEYS[8], string.format('%.0f', math.max(expires, t[1] * 1000) + 3600000))
	end
end
return 'done'
`

// extendScript replaces a session; one that has leases goes on not expiring.
//
// KEYS: session. ARGV: record as read, new record, when it may be forgotten.
const extendScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'changed' end
local lasts = redis.call('PTTL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
if lasts >= 0 then redis.call('PEXPIREAT', KEYS[1], ARGV[3]) end
return 'done'
`

// shutScript replaces a session and those of its leases that become due, if
// all of them are as they were read, and no other lease was opened.
//
// KEYS: session, owner; for each lease its own, due. ARGV: session as read, new
// session; for each lease id, record as read (” for none), new record (” to
// leave it), due.
const shutScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'changed' end
local n = (#KEYS - 2) / 2
if redis.call('SCARD', KEYS[2]) ~= n then return 'changed' end
for i = 0, n - 1 do
	if redis.call('SISMEMBER', KEYS[2], ARGV[3 + 4 * i]) == 0 then return 'changed' end
	if (redis.call('GET', KEYS[3 + 2 * i]) or '') ~= ARGV[4 + 4 * i] then return 'changed' end
end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
for i = 0, n - 1 do
	if ARGV[5 + 4 * i] ~= '' then
		redis.call('SET', KEYS[3 + 2 * i], ARGV[5 + 4 * i])
		redis.call('ZADD', KEYS[4 + 2 * i], ARGV[6 + 4 * i], ARGV[3 + 4 * i])
	end
end
return 'done'
`

// takeScript hands out what is due, and moves it behind what else is due for a
// moment, so that two brokers rarely work on the same. If the broker dies, it
// is due again when the moment has passed.
//
// KEYS: due. ARGV: at, limit, until when it is taken.
const takeScript = `
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], 'XX', ARGV[3], id) end
return ids
`

// reindexScript puts a lease where its record says that it belongs. KEYS:
// lease, due where it was found, due where it belongs. ARGV: id, record as
// read, due.
const reindexScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'changed' end
if KEYS[2] ~= KEYS[3] then redis.call('ZREM', KEYS[2], ARGV[1]) end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return 'done'
`

// healScript takes ids out of an index of which there is no record, and says
// how many. KEYS: index. ARGV: prefix of leases, then ids; no ids: all that
// are in the set.
const healScript = `
local zset, gone = redis.call('TYPE', KEYS[1]).ok == 'zset', 0
local ids = {unpack(ARGV, 2)}
if #ids == 0 and not zset then ids = redis.call('SMEMBERS', KEYS[1]) end
for _, id in ipairs(ids) do
	if redis.call('EXISTS', ARGV[1] .. id) == 0 then
		gone = gone + redis.call(zset and 'ZREM' or 'SREM', KEYS[1], id)
	end
end
return gone
`

// countScript says how many members each of several indexes has, at one moment.
const countScript = `
local counts = {}
for i, index in ipairs(KEYS) do
	counts[i] = redis.call(redis.call('TYPE', index).ok == 'zset' and 'ZCARD' or 'SCARD', index)
end
return counts
`

// run runs a script once and returns its word. A server that does not know the
// script yet has run nothing, so it is then sent in full.
func (r *Redis) run(ctx context.Context, s *redis.Script, keys []string, args ...any) (string, error) {
	word, err := s.Run(ctx, r.client, keys, args...).Text()
	if err != nil {
		return "", unreachable(err)
	}
	return word, nil
}

// attempts is how often a change is decided anew where others change the same.
const attempts = 20

// change calls try until nothing has changed between its reading and its
// writing.
func (r *Redis) change(ctx context.Context, what string, try func(context.Context) (string, error)) (string, error) {
	ctx, done := context.WithTimeout(ctx, r.Timeout)
	defer done()
	for range attempts {
		word, err := try(ctx)
		if err != nil || word != "changed" {
			return word, err
		}
	}
	return "", unreachable(fmt.Errorf("%s: the record changed %d times meanwhile", what, attempts))
}
