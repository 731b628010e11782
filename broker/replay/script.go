package replay

import (
	"errors"
	"fmt"
	"time"
)

// Every script runs this first. It answers only on a master, and destroys the
// fence where it names another server life, is older than one the asking
// broker has seen, where the server evicted keys since it was confirmed, or
// where its clock went back (what the jump ahead made expire is lost): then
// the server is unconfirmed, and nothing is claimed until a broker confirms it.
//
// A server life is run_id (a restart changes it) and master_replid (a promotion
// changes it).
//
// A script cannot tell who wrote a fence. So it never goes by one for a claim
// unless the broker, which can, hands it the same bytes.
//
// KEYS[1] is the fence, a hash: the fence itself, the newest TIME that a broker
// has seen, and the draft of a fence. ARGV[1] is the caller's nonce; ARGV[2]
// the newest fence and ARGV[3] the newest TIME that the caller has seen. Times
// are milliseconds.
const prelude = `
local nonce, newest, seen = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local info = redis.call('INFO', 'server', 'replication', 'stats')
local function field(name) return string.match(info, '\n' .. name .. ':([^\r\n]*)') end
local function text(n) return string.format('%.0f', n) end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local life, evicted = field('run_id') .. ' ' .. field('master_replid'), field('evicted_keys')
local fence, mark, draft = '', '', ''
local function reply(verdict, extra) return {nonce, verdict, text(now), life, evicted, fence, mark, extra or ''} end
if field('role') ~= 'master' then return reply('replica') end
local kept = redis.pcall('HMGET', KEYS[1], 'fence', 'seen', 'draft')
if kept.err then -- it is no hash: somebody else's
	redis.call('DEL', KEYS[1])
	kept = {}
end
fence, mark, draft = kept[1] or '', kept[2] or '', kept[3] or ''
local names, count, from = string.match(fence, '^1:[^:]*:([^:]*):([^:]*):(%d+)$')
local since = names == life and count == evicted and tonumber(from) or nil
local marked = tonumber(mark == '' and '0' or string.match(mark, '^1:[^:]*:(%d+)$') or 'inf')
if since and since < newest or math.max(marked, seen) > now + 2000 then since = nil end
if not since and (fence ~= '' or marked > now + 2000) then
	redis.call('DEL', KEYS[1])
	fence, mark, draft, marked = '', '', '', 0
end
`

// claimScript claims a token. KEYS[2] is its marker; ARGV[4] the fence that the
// caller trusts, ARGV[5] the marker's value, then the token's iat, until when
// to remember it, maxAhead, slack and margin.
const claimScript = prelude + `
local iat, till = tonumber(ARGV[6]), tonumber(ARGV[7])
local ahead, slack, margin = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if not since or fence ~= ARGV[4] then return reply('unconfirmed') end
if iat > now + ahead then return reply('ahead') end
if iat <= since + slack then return reply('stale') end
local px = text(math.max(till - now, 0) + margin)
local first = redis.call('SET', KEYS[2], ARGV[5], 'NX', 'GET', 'PX', px)
if first then return reply('used', first) end
return reply('claimed')
`

// lookScript looks at the fence. ARGV[4] is the TIME of the caller's last look,
// sealed, and ARGV[5] the same in clear; both are empty at the first.
const lookScript = prelude + `
if ARGV[4] ~= '' and tonumber(ARGV[5]) > marked then redis.call('HSET', KEYS[1], 'seen', ARGV[4]) end
return reply(since and 'confirmed' or 'unconfirmed')
`

// draftScript begins to confirm the server as of now, if it still lives the
// life that the caller saw (ARGV[4]) and nobody confirmed it meanwhile. The
// draft carries the caller's nonce, so no other broker can finish it.
const draftScript = prelude + `
if since then return reply('confirmed') end
if life ~= ARGV[4] then return reply('unconfirmed') end
redis.call('HSET', KEYS[1], 'draft', nonce)
return reply('drafted')
`

// confirmScript puts the fence (ARGV[5]) in place, if the draft of nonce
// ARGV[4] is still there: then the server has not been flushed, has claimed
// nothing since, and nobody else confirmed it. The prelude of whatever comes
// next destroys a fence that does not fit the server.
const confirmScript = prelude + `
if since then return reply('confirmed') end
if draft ~= ARGV[4] then return reply('unconfirmed') end
redis.call('HDEL', KEYS[1], 'draft')
redis.call('HSET', KEYS[1], 'fence', ARGV[5])
fence = ARGV[5]
return reply('confirmed')
`

// dropScript destroys what the caller found to be forged, if it still lies
// there: the fence ARGV[4] beside the seen TIME ARGV[5].
const dropScript = prelude + `
if fence == ARGV[4] and mark == ARGV[5] then redis.call('DEL', KEYS[1]) end
return reply('unconfirmed')
`

// answer is what every script returns. Nothing in it is authenticated.
type answer struct {
	nonce         string // of the question
	verdict       string
	now           time.Time // the server's clock
	life, evicted string
	fence, seen   string // as they lie there, sealed
	marker        string // of a token that is used, sealed
}

// readAnswer refuses whatever is not exactly an answer to our question:
// clients have been known to hand one caller the reply to another.
func readAnswer(reply any, nonce string) (answer, error) {
	list, ok := reply.([]any)
	if !ok || len(list) != 8 {
		return answer{}, fmt.Errorf("redis gave an odd answer of type %T", reply)
	}
	var text [8]string
	for i, v := range list {
		if text[i], ok = v.(string); !ok {
			return answer{}, fmt.Errorf("redis gave an odd answer: part %d is a %T", i, v)
		}
	}
	if text[0] != nonce {
		return answer{}, errors.New("redis gave the answer to another question")
	}
	now, err := readMillis(text[2])
	if err != nil || now.IsZero() {
		return answer{}, errors.New("redis gave an odd answer: its time is not a number")
	}
	return answer{verdict: text[1], now: now, life: text[3], evicted: text[4], fence: text[5], seen: text[6], marker: text[7]}, nil
}
