import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { access, lstat, mkdir, readdir, realpath, rm, rmdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { checkPath } from '../check.js'
import { abortedError, FlrcError } from '../errors.js'
import { flushDirectory, flushFile, ioError, move, renamed, systemCode } from './io.js'
import { type Contents, checkReplaceable } from './replaceable.js'

export interface DirectoryOptions {
  /** Replace a directory of the same contents that is already there. Default false. */
  overwrite?: boolean
  /** What it will hold; a model by default. */
  contents?: Contents
  /** The model that is read, which is not replaced whatever `overwrite` says. */
  source?: string
  /** Rejects with E_ABORTED and leaves nothing. */
  signal?: AbortSignal
}

/** Where a target really lies. */
interface Place {
  /** As the user named it. */
  target: string
  path: string
  parent: string
  name: string
}

async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw error
  }
}

/** Links are followed, so that what a link names is replaced and the link stays. */
async function placeOf(target: string): Promise<Place> {
  checkPath('the target directory', target, 'a path to write to')
  if (target === '') throw new FlrcError('E_USAGE', 'the target directory has no name; give a path to write to')
  let path = resolve(target)
  try {
    path = await realpath(path)
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error
    if (await exists(path)) {
      throw new FlrcError('E_EXISTS', `${target}: a link to nothing; remove it or choose another name`, {
        file: target,
      })
    }
  }
  const name = basename(path)
  if (name === '')
    throw new FlrcError('E_EXISTS', `${target}: cannot be replaced; choose another name`, { file: target })
  return { target, path, parent: dirname(path), name }
}

/** Runs file-system work on a place and names the target in what goes wrong. */
async function atTarget<T>(target: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw ioError(error, target)
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return systemCode(error) === 'EPERM'
  }
}

/** Whether the run that made a leftover is over. */
async function isStale(path: string, pid: number): Promise<boolean> {
  if (pid !== process.pid) return !isAlive(pid)
  // In a container a new run often gets the old one's id.
  try {
    const { birthtimeMs } = await stat(path)
    return birthtimeMs > 0 && birthtimeMs < Date.now() - process.uptime() * 1000 - 1000
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw error
  }
}

/**
 * Removes what killed runs for the same target left beside it. One killed between its two renames has put the
 * old directory aside and nothing in its place: that is put back.
 */
async function removeLeftovers({ path, parent, name }: Place): Promise<void> {
  let entries: string[]
  try {
    entries = await readdir(parent)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return
    throw error
  }
  for (const entry of entries.sort()) {
    if (!entry.startsWith(`.${name}.`)) continue
    const match = /^(tmp|old)-(\d+)-[0-9a-f]{12}$/.exec(entry.slice(name.length + 2))
    const leftover = join(parent, entry)
    if (!match || !(await isStale(leftover, Number(match[2])))) continue
    if (match[1] === 'old' && !(await exists(path))) await move(leftover, path)
    else await rm(leftover, { recursive: true, force: true })
  }
}

async function checkTarget(
  { target, path, parent }: Place,
  { overwrite, contents = 'model', source }: DirectoryOptions,
): Promise<void> {
  if (await exists(path)) {
    if (!overwrite) {
      throw new FlrcError(
        'E_EXISTS',
        `${target}: exists already; give another name, or replace it with --overwrite`,
        { file: target },
      )
    }
    await checkReplaceable(path, target, contents, source)
  }
  let ancestor = parent
  while (!(await exists(ancestor))) {
    // A drive that Windows does not have.
    if (dirname(ancestor) === ancestor) {
      throw new FlrcError('E_IO', `${target}: there is no ${ancestor}; choose another path`, { file: target })
    }
    ancestor = dirname(ancestor)
  }
  if (!(await stat(ancestor)).isDirectory()) {
    throw new FlrcError('E_IO', `${target}: ${basename(ancestor)} is not a directory; choose another path`, {
      file: target,
    })
  }
  await access(ancestor, constants.W_OK | constants.X_OK)
}

/**
 * Fails early where `writeDirectory` would fail late: before the long work, not after it. Also removes what
 * killed runs for this target left.
 *
 * @throws E_EXISTS where something is there that may not be replaced, E_IO where nothing can be written
 */
export async function prepareTarget(target: string, options: DirectoryOptions = {}): Promise<void> {
  await preparePlace(target, options)
}

/** The path of a hidden file or directory beside the target: `.NAME.<suffix>`. E_IO, E_EXISTS as `prepareTarget`. */
export async function besideTarget(target: string, suffix: string): Promise<string> {
  const { parent, name } = await atTarget(target, () => placeOf(target))
  return join(parent, `.${name}.${suffix}`)
}

function preparePlace(target: string, options: DirectoryOptions): Promise<Place> {
  return atTarget(target, async () => {
    const place = await placeOf(target)
    await removeLeftovers(place)
    await checkTarget(place, options)
    return place
  })
}

async function flushTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) await flushTree(path)
    else await flushFile(path)
  }
  await flushDirectory(directory)
}

const takenCodes: readonly unknown[] = ['ENOTEMPTY', 'EEXIST', 'ENOTDIR']

/** Puts the finished directory in its place. Whatever fails, the old one is there, or back. */
async function commit(
  place: Place,
  temporary: string,
  suffix: string,
  options: DirectoryOptions,
): Promise<void> {
  await checkTarget(place, options)
  const aside = join(place.parent, `.${place.name}.old-${suffix}`)
  const replaces = options.overwrite === true && (await exists(place.path))
  if (replaces) await move(place.path, aside)
  try {
    await move(temporary, place.path)
  } catch (error) {
    const code = systemCode(error)
    // Windows does not say why it refuses.
    const taken = takenCodes.includes(code) || (code === 'EPERM' && (await exists(place.path)))
    if (replaces) await move(aside, place.path)
    if (!taken) throw error
    throw new FlrcError('E_EXISTS', `${place.target}: came to be while it was written; choose another name`, {
      file: place.target,
      cause: error,
    })
  }
  await flushDirectory(place.parent)
  // The new directory is complete and in place; should this fail, the next run removes the rest.
  if (replaces) await rm(aside, { recursive: true, force: true }).catch(() => undefined)
}

/** Removes the still empty parents that were made for a target that then failed. */
async function removeParents(parent: string, firstMade: string | undefined): Promise<void> {
  if (firstMade === undefined) return
  for (let path = parent; path.startsWith(firstMade); path = dirname(path)) {
    try {
      await rmdir(path)
    } catch {
      return
    }
  }
}

/**
 * Writes a whole directory or nothing: `fill` writes into a temporary directory beside the target, all of it
 * is flushed to the disk and then renamed into place. A killed run leaves no target (its temporary directory
 * is removed by the next run for the same target); an aborted or failed one leaves nothing.
 *
 * Missing parents are made. With `overwrite`, the old directory is moved aside and removed only once the new
 * one is in place.
 *
 * @returns what `fill` returns
 * @throws E_EXISTS, E_IO naming the file, E_ABORTED, and what `fill` throws
 */
export async function writeDirectory<T>(
  target: string,
  options: DirectoryOptions,
  fill: (directory: string) => Promise<T>,
): Promise<T> {
  const { signal } = options
  if (signal?.aborted) throw abortedError()
  const place = await preparePlace(target, options)
  const suffix = `${process.pid}-${randomBytes(6).toString('hex')}`
  const temporary = join(place.parent, `.${place.name}.tmp-${suffix}`)
  let firstMade: string | undefined
  try {
    firstMade = await mkdir(place.parent, { recursive: true })
    await mkdir(temporary)
    const result = await fill(temporary)
    await flushTree(temporary)
    if (signal?.aborted) throw abortedError()
    await commit(place, temporary, suffix, options)
    return result
  } catch (error) {
    await rm(temporary, { recursive: true, force: true, maxRetries: 3 }).catch(() => undefined)
    await removeParents(place.parent, firstMade)
    if (signal?.aborted) throw abortedError()
    throw renamed(ioError(error, target), temporary, target)
  }
}
