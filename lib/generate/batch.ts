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
  /** Another one, which begins with what this one holds. */
  fork(): BatchSession
  release(): void
}

/**
 * Sequences of one model that decode side by side: a step of one waits until each of the others wants one too (or
 * was released), then all go through one read of the weights, and each gets what it would get alone, bit by bit.
 * Prompts are taken one at a time. Whoever opens a session must go on with it: the others wait.
 */
export class DecodeBatch {
  readonly #model: LoadedModel
  readonly #signal: AbortSignal | undefined
  #open = 0
  #waiting: Waiting[] = []
  #prefilled: Promise<unknown> = Promise.resolve()

  /** The signal ends the steps of all. */
  constructor(model: LoadedModel, signal?: AbortSignal) {
    this.#model = model
    this.#signal = signal
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
      fork: () => this.#join(session.fork()),
      release: () => {
        if (released) return
        released = true
        session.release()
        this.#open--
        this.#runWhenAllWait()
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
      this.#runWhenAllWait()
    })
  }

  #runWhenAllWait(): void {
    const waiting = this.#waiting
    if (waiting.length === 0 || waiting.length < this.#open) return
    this.#waiting = []
    void this.#run(waiting)
  }

  async #run(waiting: readonly Waiting[]): Promise<void> {
    try {
      const requests = waiting.map(({ request }) => request)
      const outcomes = await Session.decodeEach(requests, this.#signal)
      for (const [index, outcome] of outcomes.entries()) waiting[index]?.settle(outcome)
    } catch (error) {
      for (const { reject } of waiting) reject(error)
    }
  }
}
