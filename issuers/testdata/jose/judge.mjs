// Says of one token after the other whether jose, a library that shares nothing
// with what we verify with, takes it. Each line that is read is a question:
//
//   {"keys", "token", "issuer", "audience", "algorithms", "required", "at", "leeway", "life"}
//
// keys (a JWKS) and token are base64 of the bytes that we are shown, since a
// forged token need not be text. at, leeway and life are seconds. The answer is
// one line, {"header", "claims"} or {"refused"}.
import { Buffer } from 'node:buffer'
import { webcrypto } from 'node:crypto'
import { createInterface } from 'node:readline'

// Node.js 18 has Web Cryptography, but not where jose looks for it.
globalThis.crypto ??= webcrypto
const { createLocalJWKSet, jwtVerify } = await import('jose')

// Key sets are parsed once: most tokens are of a few issuers.
const known = new Map()

function keySet(keys) {
  if (!known.has(keys)) {
    known.set(keys, createLocalJWKSet(JSON.parse(Buffer.from(keys, 'base64').toString('utf8'))))
  }
  return known.get(keys)
}

// told lets nothing that was forgotten pass for an option that is not wanted.
function told(q, name) {
  if (q[name] === undefined) throw new Error(`the question has no ${name}`)
  return q[name]
}

// options are all that jose can be told of what we go by.
const options = (q) => ({
  issuer: told(q, 'issuer'),
  audience: told(q, 'audience'),
  algorithms: told(q, 'algorithms'),
  requiredClaims: told(q, 'required'),
  currentDate: new Date(told(q, 'at') * 1000),
  clockTolerance: told(q, 'leeway'),
  maxTokenAge: told(q, 'life'),
})

async function judge(q) {
  const wanted = options(q)
  try {
    const { protectedHeader, payload } = await jwtVerify(Buffer.from(q.token, 'base64'), keySet(q.keys), wanted)
    return { header: protectedHeader, claims: payload }
  } catch (e) {
    return { refused: `${e.code ?? e.name}: ${e.message}` }
  }
}

// JSON has no word for a number that is too large for a double.
const finite = (_, v) => (v === Infinity || v === -Infinity ? String(v) : v)

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await judge(JSON.parse(line)), finite))
}
