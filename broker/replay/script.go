package replay

import (
	"fmt"
	"strconv"
	"time"
)

// Every script runs this first. It answers only on a master, and distrusts
// the fence where it is missing, names another server life, is older than one
// the asking broker has seen, where the server evicted keys since it was
// confirmed, or where its clock went back (what the jump ahead made expire is
// lost): then the fence is unconfirmed, and nothing is claimed until a broker
// confirms it.
//
// A server life is run_id (a restart changes it) and master_replid (a promotion
// changes it).
//
// KEYS[1] is the fence; ARGV[1] the caller's nonce, ARGV[2] the newest fence
// that the caller has seen. Times are milliseconds.
const prelude = `
local fence, nonce, newest = KEYS[1], ARGV[1], tonumber(ARGV[2])
local info = redis.call('INFO', 'server', 'replication', 'stats')
local function field(name) return string.match(info, '\n' .. name .. ':([^\r\n]*)') end
local function number(v)
	local n = tonumber(v or '')
	if n and n >= 0 then return n end
	return nil
end
local function text(n) return string.format('%.0f', n) end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local life = field('run_id') .. ' ' .. field('master_replid')
local evicted = field('evicted_keys')
local since = nil
local function reply(verdict) return {nonce, verdict, text(now), text(since or 0), life} end
if field('role') ~= 'master' then return reply('replica') end
local kept = redis.call('HMGET', fence, 'life', 'evicted', 'since', 'seen')
if kept[1] == life and kept[2] == evicted then since = number(kept[3]) end
if since and since < newest or (number(kept[4]) or 0) > now + 2000 then since = nil end
if not since and (kept[1] ~= life or kept[3]) then
	redis.call('DEL', fence)
	redis.call('HSET', fence, 'life', life, 'seen', text(now))
end
`

// claimScript claims a token. KEYS[2] is its marker; ARGV[3] its iat, ARGV[4]
// until when to remember it, then maxAhead, slack and margin.
const claimScript = prelude + `
local iat, till = tonumber(ARGV[3]), tonumber(ARGV[4])
local ahead, slack, margin = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if not since then return reply('unconfirmed') end
if iat > now + ahead then return reply('ahead') end
if iat <= since + slack then return reply('stale') end
local px = text(math.max(till - now, 0) + margin)
if redis.call('SET', KEYS[2], '', 'NX', 'PX', px) then return reply('claimed') end
return reply('used')
`

// lookScript looks at the fence.
const lookScript = prelude + `
redis.call('HSET', fence, 'seen', text(now))
return reply(since and 'confirmed' or 'unconfirmed')
`

// confirmScript confirms the fence as of now, if it still names the life that
// the caller saw (ARGV[3]) and nobody confirmed it meanwhile.
const confirmScript = prelude + `
if since then return reply('confirmed') end
if life ~= ARGV[3] then return reply('unconfirmed') end
since = now
redis.call('HSET', fence, 'life', life, 'evicted', evicted, 'since', text(now), 'seen', text(now))
return reply('confirmed')
`

// answer is what every script returns.
type answer struct {
	verdict string
	now     time.Time // the server's clock
	since   time.Time // the fence; zero where it is unconfirmed
	life    string
}

// readAnswer refuses whatever is not exactly an answer to our question:
// clients have been known to hand one caller the reply to another.
func readAnswer(reply any, nonce string) (answer, error) {
	list, ok := reply.([]any)
	if !ok || len(list) != 5 {
		return answer{}, fmt.Errorf("redis gave an odd answer of type %T", reply)
	}
	var text [5]string
	for i, v := range list {
		if text[i], ok = v.(string); !ok {
			return answer{}, fmt.Errorf("redis gave an odd answer: part %d is a %T", i, v)
		}
	}
	if text[0] != nonce {
		return answer{}, fmt.Errorf("redis gave the answer to another question")
	}
	now, err := strconv.ParseInt(text[2], 10, 64)
	if err != nil || now <= 0 {
		return answer{}, fmt.Errorf("redis gave an odd answer: its time is not a number")
	}
	since, err := strconv.ParseInt(text[3], 10, 64)
	if err != nil || since < 0 {
		return answer{}, fmt.Errorf("redis gave an odd answer: its fence is not a number")
	}
	a := answer{verdict: text[1], now: time.UnixMilli(now), life: text[4]}
	if since > 0 {
		a.since = time.UnixMilli(since)
	}
	return a, nil
}
