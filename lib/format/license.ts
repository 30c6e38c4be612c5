import { join } from 'node:path'
import { readTextFile } from './files.js'
import type { GgufFile } from './gguf.js'

/** What the hub calls a licence, such as `apache-2.0` or `llama3.1`. */
const identifier = /^[a-z\d][\w.+-]*$/i
const cardLimit = 4_000_000

/** The licence that a GGUF file names; undefined where it names none, or says it in other words. */
export function licenseOfGguf({ metadata }: GgufFile): string | undefined {
  const license = metadata.get('general.license')
  return typeof license === 'string' && identifier.test(license) ? license : undefined
}

/** The licence in the front matter of a directory's model card; undefined where there is none, or no readable card. */
export async function licenseOfDirectory(directory: string): Promise<string | undefined> {
  // A card is no part of the model: whatever is wrong with one fails nothing.
  const card = readTextFile(join(directory, 'README.md'), { limit: cardLimit, code: 'E_MODEL_FORMAT' })
  const text = await card.catch(() => '')
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text)?.[1] ?? ''
  const license = /^license:[ \t]*(["']?)([^"'\s]+)\1[ \t]*\r?$/m.exec(front)?.[2]
  return license !== undefined && identifier.test(license) ? license : undefined
}
