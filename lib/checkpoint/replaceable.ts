import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { FlrcError } from '../errors.js'

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

/**
 * Lets overwriting destroy only what such a run could have written: an empty directory, or one that holds a
 * model (a config.json with a model_type) and no directories.
 *
 * @throws E_EXISTS
 */
export async function checkReplaceable(path: string, target: string): Promise<void> {
  const refuse = (why: string) =>
    new FlrcError(
      'E_EXISTS',
      `${target}: ${why}, so it is not replaced; remove it yourself or choose another name`,
      {
        file: target,
      },
    )
  if (!(await stat(path)).isDirectory()) throw refuse('not a directory')
  const entries = await readdir(path, { withFileTypes: true })
  if (entries.length === 0) return
  const config = entries.find((entry) => entry.name === 'config.json')
  if (config === undefined || !(await isModelConfig(join(path, config.name)))) throw refuse('holds no model')
  const directory = entries.find((entry) => entry.isDirectory())
  if (directory !== undefined) throw refuse(`holds the directory ${directory.name} beside a model`)
}
