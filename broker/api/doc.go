// Package api serves Daypass over HTTP: it decodes strictly, calls the broker,
// and encodes. It decides nothing.
//
// It guarantees:
//
//   - a request that is not exactly what the contract says (unknown or repeated
//     members, another content type, a query string, a body where none belongs)
//     is refused before the broker hears of it;
//   - an error has one code, one status and words that are safe to show; its
//     cause goes to the log and nowhere else;
//   - one log line per request, with the route's pattern instead of the path,
//     and nothing that a client wrote: no header, no body, no query;
//   - nothing is cached (but the public keys), nothing is readable across
//     origins, and the request id is always ours;
//   - slow, huge and smuggled requests end within the times and sizes of
//     [Server].
//
// It refuses to trust what a proxy says about a client for anything but the
// log, and it holds no credential longer than one request.
//
// [NewPublic] is for jobs; [NewAdmin] is for operators and belongs on a
// loopback listener. openapi.yaml describes both.
package api
