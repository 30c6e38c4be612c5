import { readdir, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { ioError } from './io.js'
import { sha256OfText } from './plan.js'

/**
 * Where an interrupted run leaves what it goes on from: `PREFIX-<hash>`, by a hash of all that decides the result, so
 * that a run of other inputs, options or version finds nothing.
 */
export function statePath(prefix: string, key: unknown): string {
  return `${prefix}-${sha256OfText(JSON.stringify(key)).slice(0, 16)}`
}

/** Removes every state with this prefix, whatever run it is of. E_IO. */
export async function removeStates(prefix: string): Promise<void> {
  const parent = dirname(prefix)
  const name = `${basename(prefix)}-`
  const entries = await readdir(parent).catch(() => [])
  const states = entries.filter(
    (entry) => entry.startsWith(name) && /^[0-9a-f]{16}(\.part)?$/.test(entry.slice(name.length)),
  )
  try {
    await Promise.all(states.map((entry) => rm(join(parent, entry), { recursive: true, force: true })))
  } catch (error) {
    throw ioError(error, prefix)
  }
}
