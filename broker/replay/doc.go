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
// landed; and Redis servers that may evict keys, are replicas, are part of a
// Cluster, have a clock that is off, or have more replicas than acknowledge a
// claim's majority.
//
// What lies in Redis is authenticated: a record that was written by hand, or
// moved to another key, is refused, and never taken for leave to use a token.
// Still Redis is trusted for "once": who can delete there can undo it. Give
// Daypass an ACL user of its own, and TLS. The user needs the keys
// dp:{DEPLOYMENT}:* and the commands EVAL, EVALSHA, INFO, TIME, WAIT, HMGET,
// HSET, HDEL, DEL, SET, GET and PING.
//
// Both stores also keep sealed answers for clients that lost them; see
// [broker.Answers].
package replay
