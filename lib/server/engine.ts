import { toFlrcError } from '../binding.js'
import { counted } from '../counted.js'
import { abortedError, FlrcError } from '../errors.js'
import { DecodeBatch } from '../generate/batch.js'
import { checkOptions, type DecodeOptions, promptTokens } from '../generate/options.js'
import { chatTokens } from '../generate/prompt.js'
import {
  decode,
  type GenerateOptions,
  type Generation,
  LeavableGeneration,
  type PieceGenerator,
} from '../generate.js'
import type { LoadedModel } from '../model.js'
import type { ScheduleChoice } from '../schedule.js'
import { hold, PromptCaches } from './caches.js'
import { blamed, closingFailure } from './failure.js'
import type { Wanted } from './requests.js'
import { Turns } from './turns.js'

export interface EngineOptions {
  /** Requests that run at once, and how many may wait for them. */
  parallel: number
  queue: number
  /** Memory that caches of ended requests may take. */
  cacheBytes: number
  /** Of requests that name none. */
  schedule: ScheduleChoice | undefined
}

/** What is known of a generation beside its pieces; filled in by the time of the first. */
export interface Started {
  /** Since it was asked for until its turn came. */
  waitedMs: number
  promptTokens: number
  cachedTokens: number
}

export interface ServedGeneration {
  pieces: Generation
  started: Started
  /** As text; undefined where it is a function. */
  schedule: string | undefined
  /** How many the model has. */
  levels: number
}

/** With the schedule of those that name none filled in. */
type Scheduled = Omit<Wanted, 'schedule'> & Pick<EngineOptions, 'schedule'>

/** Generates what requests want on one model: side by side, and as many as may at once. */
export class Engine {
  readonly model: LoadedModel
  readonly #schedule: ScheduleChoice | undefined
  readonly #caches: PromptCaches
  readonly #turns: Turns
  readonly #generations = new Set<Generation>()
  #closed = false

  /** @throws E_USAGE for a schedule that the model cannot run */
  constructor(model: LoadedModel, { parallel, queue, cacheBytes, schedule }: EngineOptions) {
    checkOptions({ schedule }, model)
    this.model = model
    this.#schedule = schedule
    this.#caches = new PromptCaches(new DecodeBatch(model, { waitsFor: 'none' }), cacheBytes)
    this.#turns = new Turns(parallel, queue)
  }

  /**
   * Pieces as they come; asking for the first one waits for the request's turn. Errors: at once E_USAGE for what the
   * model cannot do, and E_ABORTED; then those of a generation, of the chat template, and of a server that is busy or closing.
   */
  generate(wanted: Wanted, signal: AbortSignal): ServedGeneration {
    if (this.#closed) throw closingFailure()
    // A generation that never begins would never leave the set of those there are.
    if (signal.aborted) throw abortedError()
    const { sampling, maxTokens = 0, schedule = this.#schedule } = wanted
    const options = this.#checked({ ...sampling, maxTokens, schedule })
    const started = { waitedMs: 0, promptTokens: 0, cachedTokens: 0 }
    const pieces = new LeavableGeneration(
      signal,
      async function* (this: Engine, left: AbortSignal) {
        try {
          return yield* this.#run({ ...wanted, schedule }, options, started, left)
        } finally {
          this.#generations.delete(pieces)
        }
      }.bind(this),
    )
    this.#generations.add(pieces)
    return { pieces, started, schedule: textOf(schedule), levels: this.model.levels.length }
  }

  /** Of requests that name none, as text; undefined where it is a function. */
  get schedule(): string | undefined {
    return textOf(this.#schedule)
  }

  /** Ends all generations, and resolves once they have. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#generations].map((generation) => generation.return(undefined)))
    this.#caches.clear()
  }

  async *#run(
    wanted: Scheduled,
    options: Omit<DecodeOptions, 'reused'>,
    started: Started,
    signal: AbortSignal,
  ): PieceGenerator {
    const begin = performance.now()
    const leave = await this.#turns.take(signal)
    try {
      started.waitedMs = performance.now() - begin
      const { tokens, maxTokens } = await this.#read(wanted, signal)
      started.promptTokens = tokens.length
      return yield* this.#decode(tokens, wanted, { ...options, maxTokens }, started, signal)
    } finally {
      leave()
    }
  }

  async *#decode(
    tokens: readonly number[],
    { reuse, schedule = 'full' }: Scheduled,
    options: Omit<DecodeOptions, 'reused'>,
    started: Started,
    signal: AbortSignal,
  ): PieceGenerator {
    const cached = reuse ? await this.#caches.take(tokens, schedule) : this.#caches.empty(schedule)
    const { session, tokens: held } = cached
    const reused = held.length
    started.cachedTokens = reused
    let whole = true
    try {
      return yield* decode(this.model, session, tokens, { ...options, reused }, signal, (token, level) =>
        hold(cached, token, level),
      )
    } catch (error) {
      // Who leaves between two tokens leaves the cache as it was; a prompt that was cut off may still be writing to it.
      whole = toFlrcError(error).code === 'E_ABORTED' && held.length >= tokens.length
      throw error
    } finally {
      if (whole && !this.#closed && !this.model.disposed) this.#caches.keep(cached)
      else session.release()
    }
  }

  /** All but the schedule was checked when the request was read. */
  #checked(options: GenerateOptions): Omit<DecodeOptions, 'reused'> {
    try {
      return checkOptions(options, this.model)
    } catch (error) {
      throw blamed('schedule', error)
    }
  }

  async #read(
    { prompt, maxTokens }: Scheduled,
    signal: AbortSignal,
  ): Promise<{ tokens: number[]; maxTokens: number }> {
    try {
      const tokens = await this.#tokensOf(prompt, signal)
      return { tokens, maxTokens: this.#room(tokens.length, maxTokens) }
    } catch (error) {
      throw blamed('text' in prompt ? 'prompt' : 'messages', error)
    }
  }

  /** What of `most` tokens fits the context behind a prompt. E_CONTEXT where not one does. */
  #room(promptTokens: number, most = Number.POSITIVE_INFINITY): number {
    const { contextLength } = this.model.config
    const left = contextLength - promptTokens
    if (left >= Math.min(1, most)) return Math.min(left, most)
    const prompt = counted(promptTokens, 'prompt token')
    throw new FlrcError(
      'E_CONTEXT',
      `${prompt} leave no room in the context of ${contextLength}; shorten the prompt`,
    )
  }

  #tokensOf(prompt: Wanted['prompt'], signal: AbortSignal): Promise<number[]> | number[] {
    if ('text' in prompt) return promptTokens(this.model, prompt.text)
    return chatTokens(this.model, prompt.messages, { remedy: 'ask /v1/completions instead', signal })
  }
}

function textOf(schedule: ScheduleChoice = 'full'): string | undefined {
  return typeof schedule === 'string' ? schedule : undefined
}
