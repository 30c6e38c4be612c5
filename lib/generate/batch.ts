import { setImmediate } from 'node:timers/promises'
import { abortedError, type FlrcError } from '../errors.js'
import type { DecodingSession } from '../generate.js'
import type { LoadedModel } from '../model.js'
import type { NativeStep } from '../native-types.js'
import { type DecodeRequest, Session } from '../session.js'

interface Waiting {
  request: DecodeRequest
  settle: (outcome: NativeStep | FlrcError) => void
  reject: (reason: unknown) => void
}

/** One of the sequences. */
export interface BatchSession extends DecodingSession {
  /** Of its cache and working memory. */
  readonly bytes: number
  /** Another one, which begins with what this one holds, or with the first `length` positions of it. */
  fork(length?: number): Promise<BatchSession>
  /** Forgets all positions from `length` on. */
  rewind(length: number): void
  /** Lets its working memory go until it decodes again. */
  rest(): void
  release(): void
}

export interface BatchOptions {
  /** Ends the steps of all. */
  signal?: AbortSignal
  /**
   * Whom a step waits for. `all`: until each open sequence wants one too, or was released; whoever opens a session must
   * go on with it. `none`: for those that ask in the same turn of the event loop, so that sequences whose readers are
   * slow, or whose prompts are being read, hold up no other.
   */
  waitsFor: 'all' | 'none'
}

/**
 * Sequences of one model that decode side by side: the steps that they want go through one read of the weights, and
 * each gets what it would get alone, bit by bit. Prompts are taken one at a time.
 */
export class DecodeBatch {
  readonly #model: LoadedModel
  readonly #options: BatchOptions
  #open = 0
  #waiting: Waiting[] = []
  #running = false
  #prefilled: Promise<unknown> = Promise.resolve()

  constructor(model: LoadedModel, options: BatchOptions) {
    this.#model = model
    this.#options = options
  }

  open(): BatchSession {
    return this.#join(this.#model.createSession())
  }

  #join(session: Session): BatchSession {
    this.#open++
    let released = false
    return {
      prefill: (tokens, level, signal) => this.#inTurn(() => session.prefill(tokens, level, signal)),
      sample: (sampling) => session.sample(sampling),
      decode: async (token, level, sampling, signal) => {
        if (signal?.aborted) throw abortedError()
        return this.#decode({ session, token, level, sampling })
      },
      speculate: (token, options, sampling, signal) => session.speculate(token, options, sampling, signal),
      get bytes() {
        return session.bytes
      },
      fork: async (length) => this.#join(await session.fork(length)),
      rewind: (length) => session.rewind(length),
      rest: () => session.rest(),
      release: () => {
        if (released) return
        released = true
        session.release()
        this.#open--
        this.#runWhenReady()
      },
    }
  }

  /** Two prompts at once would only take turns on the same cores. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#prefilled.then(work)
    this.#prefilled = result.catch(() => undefined)
    return result
  }

  #decode(request: DecodeRequest): Promise<NativeStep> {
    return new Promise((resolve, reject) => {
      const settle = (outcome: NativeStep | FlrcError) =>
        outcome instanceof Error ? reject(outcome) : resolve(outcome)
      this.#waiting.push({ request, settle, reject })
      this.#runWhenReady()
    })
  }

  #runWhenReady(): void {
    if (this.#running || this.#waiting.length === 0) return
    if (this.#options.waitsFor === 'all' && this.#waiting.length < this.#open) return
    void this.#run()
  }

  async #run(): Promise<void> {
    this.#running = true
    // Those whom the last step has just answered ask for their next one before this turn ends.
    if (this.#options.waitsFor === 'none') await setImmediate()
    const waiting = this.#waiting
    this.#waiting = []
    try {
      const requests = waiting.map(({ request }) => request)
      const outcomes = await Session.decodeEach(requests, this.#options.signal)
      for (const [index, outcome] of outcomes.entries()) waiting[index]?.settle(outcome)
    } catch (error) {
      for (const { reject } of waiting) reject(error)
    }
    this.#running = false
    this.#runWhenReady()
  }
}
