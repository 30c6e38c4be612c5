import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { root } from './log.mjs'

const folder = path.join(root, 'build', 'stamps')

/**
 * A hash of files and folders (whole trees, by name and content) and of further text such as versions.
 * A path that does not exist counts as empty.
 */
export function hashOf(paths, extra = []) {
  const hash = createHash('sha256')
  for (const file of paths.flatMap(filesUnder)) {
    hash
      .update(`${file}\0`)
      .update(readFileSync(path.join(root, file)))
      .update('\0')
  }
  for (const text of extra) hash.update(`${text}\0`)
  return hash.digest('hex')
}

function filesUnder(relative) {
  const absolute = path.join(root, relative)
  if (!existsSync(absolute)) return []
  let entries
  try {
    entries = readdirSync(absolute, { withFileTypes: true })
  } catch {
    return [relative]
  }
  return entries
    .filter((entry) => entry.name !== 'node_modules' && entry.name !== '__pycache__')
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => filesUnder(path.join(relative, entry.name)))
}

/**
 * Makes something unless it is there already, made from the same inputs. The stamp is taken away before the
 * work and written after it, so that work broken off is done again.
 */
export async function once(name, hash, outputs, make) {
  const stamp = path.join(folder, name)
  const fresh = existsSync(stamp) && readFileSync(stamp, 'utf8') === hash
  if (fresh && outputs.every((output) => existsSync(path.join(root, output)))) return
  rmSync(stamp, { force: true })
  await make()
  mkdirSync(folder, { recursive: true })
  writeFileSync(stamp, hash)
}
