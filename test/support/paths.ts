import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository, from build/ts/test/support. */
const root = fileURLToPath(new URL('../../../../', import.meta.url))

export const repository = (...parts: string[]) => join(root, ...parts)
export const fixture = (...parts: string[]) => repository('test', 'fixtures', 'pytorch', ...parts)
export const shared = (...parts: string[]) => repository('..', 'shared', ...parts)
export const smollm2Gguf = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')

/** A new directory that is gone when the process ends. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'flrc-test-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}
