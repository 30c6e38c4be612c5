import { mkdir, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ioError, move, systemCode } from '../checkpoint/io.js'
import { statePath } from '../checkpoint/state.js'
import { FlrcError } from '../errors.js'
import type { RecoveryHandle } from './handle.js'

/** Writing the state takes at most one part in so many of the time. */
const timeShare = 20

export interface StateOptions {
  /** A path that `-<hash>` is added to. */
  prefix: string
  /** All that decides the result. */
  key: unknown
  /** Whether to go on from a state that is there. */
  resume: boolean
  /** Least milliseconds between two writings; a minute by default. */
  interval?: number
}

/** The file that an interrupted recovery goes on from: `PREFIX-<hash>`, by a hash of all that decides the result. */
export class RecoveryState {
  readonly file: string
  readonly #interval: number
  #next: number

  constructor({ prefix, key, interval = 60_000 }: StateOptions) {
    this.file = statePath(prefix, key)
    this.#interval = interval
    this.#next = performance.now() + interval
  }

  async exists(): Promise<boolean> {
    try {
      return (await stat(this.file)).isFile()
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return false
      throw ioError(error, this.file)
    }
  }

  /** Writes the state where it is time to: the old one stays until the new one is whole. */
  async saveWhenDue(handle: RecoveryHandle, note: () => unknown): Promise<void> {
    const begin = performance.now()
    if (begin < this.#next) return
    await this.save(handle, note())
    const end = performance.now()
    this.#next = end + Math.max(this.#interval, timeShare * (end - begin))
  }

  async save(handle: RecoveryHandle, note: unknown): Promise<void> {
    const part = `${this.file}.part`
    try {
      await mkdir(dirname(this.file), { recursive: true })
      await handle.save(part, JSON.stringify(note))
      await move(part, this.file)
    } catch (error) {
      await rm(part, { force: true }).catch(() => undefined)
      throw ioError(error, this.file)
    }
  }

  /** The note that was saved with the state. E_MODEL_FORMAT where the file is damaged. */
  async load(handle: RecoveryHandle): Promise<unknown> {
    const note = await handle.load(this.file)
    try {
      return JSON.parse(note)
    } catch (error) {
      throw new FlrcError('E_MODEL_FORMAT', `${this.file} is damaged; run again without --resume`, {
        file: this.file,
        cause: error,
      })
    }
  }
}
