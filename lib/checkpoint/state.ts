import { mkdir, readdir, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { callNative } from '../binding.js'
import { abortedError, FlrcError } from '../errors.js'
import type { NativeFileLock } from '../native-types.js'
import { ioError } from './io.js'
import { sha256OfText } from './plan.js'

export interface StateOptions {
  /** A path that `-<hash>` is added to. */
  prefix: string
  /** All that decides the result. */
  key: unknown
  /** Whether to go on from a state that is there; without it that is removed. */
  resume: boolean
}

/**
 * How long to wait for another's lock. What was aborted in this process holds its own until native work has seen that;
 * another run's lasts for as long as that run, and waiting for it would only lead to a target that exists.
 */
const lockMs = 5000

/**
 * What an interrupted run leaves to go on from: a file or folder `PREFIX-<hash>`, by a hash of all that decides the
 * result, so that a run of other inputs, options or version finds nothing. One run at a time has it: it holds
 * `PREFIX-<hash>.lock`, which the system lets go of where a run is killed.
 */
export class OpenState {
  readonly path: string
  readonly lock: NativeFileLock

  private constructor(path: string, lock: NativeFileLock) {
    this.path = path
    this.lock = lock
  }

  /** E_BUSY where another run has it, E_IO, E_ABORTED. The folder that it lies in is made. */
  static async open({ prefix, key, resume }: StateOptions, signal?: AbortSignal): Promise<OpenState> {
    const path = `${prefix}-${sha256OfText(JSON.stringify(key)).slice(0, 16)}`
    try {
      await mkdir(dirname(path), { recursive: true })
    } catch (error) {
      throw ioError(error, path)
    }
    const state = new OpenState(path, await lockOf(path, signal))
    try {
      if (!resume) await rm(path, { recursive: true, force: true })
    } catch (error) {
      state.release()
      throw ioError(error, path)
    }
    return state
  }

  /** Lets others have it. */
  release(): void {
    callNative((addon) => addon.releaseLock(this.lock))
  }
}

async function lockOf(path: string, signal: AbortSignal | undefined): Promise<NativeFileLock> {
  const end = performance.now() + lockMs
  for (;;) {
    if (signal?.aborted) throw abortedError()
    const lock = tryLock(path)
    if (lock) return lock
    if (performance.now() > end) {
      throw new FlrcError(
        'E_BUSY',
        `${path}: another run is at this very work and keeps its state there; wait for it, or write to another place`,
        { file: path },
      )
    }
    await setTimeout(50)
  }
}

function tryLock(path: string): NativeFileLock | null {
  return callNative((addon) => addon.lockFile(`${path}.lock`))
}

/** Removes every state with this prefix that no run has, whatever run it is of, and what killed ones half wrote. E_IO. */
export async function removeStates(prefix: string): Promise<void> {
  const parent = dirname(prefix)
  const name = `${basename(prefix)}-`
  const leftovers = new Map<string, string[]>()
  for (const entry of await readdir(parent).catch(() => [])) {
    const rest = entry.startsWith(name) ? entry.slice(name.length) : ''
    const hash = /^([0-9a-f]{16})(\.part|\.lock|\.\d+\.tmp)?$/.exec(rest)?.[1]
    if (hash === undefined) continue
    leftovers.set(hash, [...(leftovers.get(hash) ?? []), join(parent, entry)])
  }
  await Promise.all(
    [...leftovers].map(([hash, paths]) => removeUnlocked(join(parent, `${name}${hash}`), paths)),
  )
}

async function removeUnlocked(state: string, paths: readonly string[]): Promise<void> {
  const lock = tryLock(state)
  if (lock === null) return
  try {
    // The lock's own file goes with the lock.
    for (const path of paths.filter((each) => !each.endsWith('.lock'))) {
      await rm(path, { recursive: true, force: true })
    }
  } catch (error) {
    throw ioError(error, state)
  } finally {
    callNative((addon) => addon.releaseLock(lock))
  }
}
