// Package broker turns a verified CI identity into short-lived credentials.
//
// It holds the nouns of Daypass (identity, grant, lease, job session), the
// small interfaces behind which everything else lives, and the order in which
// one exchange happens: see [Broker.Exchange].
//
// It guarantees, whatever stands behind the interfaces:
//
//   - a request that policy denies reaches no target and does not consume the
//     token;
//   - nothing is minted before its intent is durable in the journal, and
//     nothing is handed out before the journal says so;
//   - all grants of one request or none;
//   - an error, a time-out or an odd answer of any part is a refusal, never a
//     pass.
//
// It refuses to know protocols: no HTTP, no SQL, no Redis, no token format. It
// imports the standard library only.
package broker
