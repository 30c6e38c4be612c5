import { abortedError } from '../errors.js'
import { RequestFailure } from './failure.js'

/** Lets some requests run at once and others wait for them, in the order in which they came. */
export class Turns {
  readonly #parallel: number
  readonly #longest: number
  readonly #waiting = new Set<() => void>()
  #running = 0

  /** `parallel` requests run at once, and `longest` may wait. */
  constructor(parallel: number, longest: number) {
    this.#parallel = parallel
    this.#longest = longest
  }

  /**
   * Resolves when it is the caller's turn, to what it calls once that has ended. A RequestFailure of status 503 where
   * too many wait already, E_ABORTED.
   */
  async take(signal: AbortSignal): Promise<() => void> {
    if (signal.aborted) throw abortedError()
    if (this.#running < this.#parallel) this.#running++
    else await this.#wait(signal)
    return () => this.#leave()
  }

  #wait(signal: AbortSignal): Promise<void> {
    if (this.#waiting.size >= this.#longest) {
      const message = `${this.#parallel} requests run and ${this.#longest} wait, as many as may; try again later`
      throw new RequestFailure(503, 'busy', message, { headers: { 'retry-after': '1' } })
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(go)
        reject(abortedError())
      }
      const go = () => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(go)
    })
  }

  /** Hands the turn on to who has waited longest. */
  #leave(): void {
    const [next] = this.#waiting
    if (next === undefined) {
      this.#running--
      return
    }
    this.#waiting.delete(next)
    next()
  }
}
