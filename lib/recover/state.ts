import { rm, stat } from 'node:fs/promises'
import { ioError, move, systemCode } from '../checkpoint/io.js'
import { OpenState, type StateOptions } from '../checkpoint/state.js'
import { FlrcError } from '../errors.js'
import type { RecoveryHandle } from './handle.js'

/** Writing the state takes at most one part in so many of the time. */
const timeShare = 20

export interface RecoveryStateOptions extends StateOptions {
  /** Least milliseconds between two writings; a minute by default. */
  interval?: number
}

/** The file that an interrupted recovery goes on from. */
export class RecoveryState {
  readonly #state: OpenState
  readonly #interval: number
  #next: number

  private constructor(state: OpenState, interval: number) {
    this.#state = state
    this.#interval = interval
    this.#next = performance.now() + interval
  }

  /** E_BUSY, E_IO, E_ABORTED. */
  static async open(
    { interval = 60_000, ...options }: RecoveryStateOptions,
    signal: AbortSignal | undefined,
  ): Promise<RecoveryState> {
    return new RecoveryState(await OpenState.open(options, signal), interval)
  }

  get file(): string {
    return this.#state.path
  }

  release(): void {
    this.#state.release()
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
      await handle.save(part, JSON.stringify(note), this.#state.lock)
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
