// Package replay remembers which CI tokens were used, so that each buys one
// exchange: in memory for a broker that stands alone, in Redis for several.
//
// It guarantees that a claim succeeds at most once for a token, and that a
// store that may have forgotten says so instead of guessing: tokens from before
// the moment up to which it can vouch (the fence) are refused as stale, and the
// job asks its provider for a fresh one. Whatever is not a clear answer is a
// refusal.
//
// It refuses to retry a claim by itself, since one that timed out may have
// landed; Redis servers that may evict keys, are replicas, are part of a
// Cluster or have a clock that is off; and Sentinel, for now.
//
// Redis is trusted for "once": who can write to it can undo it. Give Daypass an
// ACL user of its own, and TLS. The user needs the keys dp:{DEPLOYMENT}:* and
// the commands EVAL, EVALSHA, INFO, TIME, WAIT, HMGET, HSET, DEL, SET and PING.
package replay
