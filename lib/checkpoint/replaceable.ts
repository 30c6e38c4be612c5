import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { FlrcError } from '../errors.js'
import { systemCode } from './io.js'

/** A config.json beyond this is none. */
const configLimit = 64_000_000

async function isModelConfig(file: string): Promise<boolean> {
  const stats = await stat(file)
  if (!stats.isFile() || stats.size > configLimit) return false
  try {
    const config: unknown = JSON.parse(await readFile(file, 'utf8'))
    return typeof config === 'object' && config !== null && 'model_type' in config
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}

/** Whether a directory is `file`, or holds it. `path` has no links in it; a file that is not there is nowhere. */
async function holds(path: string, file: string): Promise<boolean> {
  try {
    return `${await realpath(file)}${sep}`.startsWith(`${path}${sep}`)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw error
  }
}

/** What a directory is written as, and the file that tells it is one. */
export type Contents = 'model' | 'calibration'
export const calibrationRecord = 'flrc-calibration.json'

async function isOne(what: Contents, path: string, names: readonly string[]): Promise<boolean> {
  if (what === 'calibration') return names.includes(calibrationRecord)
  return names.includes('config.json') && (await isModelConfig(join(path, 'config.json')))
}

/**
 * Lets overwriting destroy only what such a run could have written: an empty directory, or one that holds a
 * model (a config.json with a model_type), or a calibration where one is written, and no directories. Never the
 * model that is read, `source`.
 *
 * @throws E_EXISTS
 */
export async function checkReplaceable(
  path: string,
  target: string,
  what: Contents,
  source?: string,
): Promise<void> {
  const refuse = (why: string, remedy = 'remove it yourself or choose another name') =>
    new FlrcError('E_EXISTS', `${target}: ${why}, so it is not replaced; ${remedy}`, { file: target })
  if (source !== undefined && (await holds(path, source))) {
    throw refuse('holds the model that is read', 'choose another name')
  }
  if (!(await stat(path)).isDirectory()) throw refuse('not a directory')
  const entries = await readdir(path, { withFileTypes: true })
  if (entries.length === 0) return
  const names = entries.map((entry) => entry.name)
  if (!(await isOne(what, path, names))) throw refuse(`holds no ${what}`)
  const directory = entries.find((entry) => entry.isDirectory())
  if (directory !== undefined) throw refuse(`holds the directory ${directory.name} beside a ${what}`)
}
