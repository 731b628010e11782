// Package lease keeps leases and job sessions: in memory for a broker that
// stands alone, in Redis for several.
//
// It guarantees that a change is made whole or not at all; that no cap is
// passed, however many ask at once; that nothing is activated for a job session
// that has been shut; and that a session is kept as long as a lease of it lives.
//
// It refuses to act on a record in Redis that this deployment's key does not
// authenticate for the very place where it lies. Whoever can write to Redis can
// therefore delete records, or put an older one of the same lease or session
// back, but neither invent nor move nor change one. A deleted lease is found in
// its target by name; a deleted session is refused.
//
// The Redis user needs the keys dp:{DEPLOYMENT}:* and the commands EVAL, EVALSHA,
// TIME, GET, MGET, SET, DEL, EXISTS, TYPE, PERSIST, PEXPIREAT, PTTL, SADD, SREM,
// SCARD, SISMEMBER, SMEMBERS, ZADD, ZREM, ZCARD, ZRANGE and ZRANGEBYSCORE.
//
// Nothing secret is stored: a session by the hash of its token, a credential by
// its name.
package lease
