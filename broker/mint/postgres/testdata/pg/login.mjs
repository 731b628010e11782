// Logs in with node-postgres as it is and runs a statement. Each line that is
// read is a question, {"env", "url", "sql"}: a job's environment, or a URL. The
// answer is one line, {"row"} or {"refused"} with PostgreSQL's code.
import { createInterface } from 'node:readline'
import pg from 'pg'

async function login({ env, url, sql }) {
  for (const name of Object.keys(process.env)) {
    if (name.startsWith('PG')) delete process.env[name]
  }
  Object.assign(process.env, env)
  const client = url ? new pg.Client({ connectionString: url }) : new pg.Client()
  try {
    await client.connect()
    const { rows } = await client.query({ text: sql, rowMode: 'array' })
    return { row: rows[0].map(String) }
  } catch (e) {
    return { refused: e.code ?? e.message }
  } finally {
    await client.end()
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await login(JSON.parse(line))))
}
