import { checkObject } from './check.js'
import { abortedError, FlrcError } from './errors.js'
import { checkContext, checkOptions, type DecodeOptions, promptTokens } from './generate/options.js'
import { Penalties } from './generate/penalties.js'
import { SpeculativeSteps } from './generate/speculation.js'
import { levelBudget, type ProducedToken, type SamplingAt, ScheduledSteps } from './generate/steps.js'
import { type Held, StopFilter } from './generate/stop.js'
import type {
  Completion,
  GenerateOptions,
  Generation,
  GenerationEnd,
  Piece,
  PieceGenerator,
} from './generate/types.js'
import type { LoadedModel } from './model.js'
import type { NativeStep } from './native-types.js'
import type { Session } from './session.js'

export type { PenaltyOptions } from './generate/penalties.js'
export type { SpeculateOptions } from './generate/speculation.js'
export type * from './generate/types.js'

/**
 * Generates from a prompt (text or token ids) on a session of its own. Errors: E_CONTEXT where the prompt and
 * maxTokens exceed the context, E_USAGE for an unusable option, E_DISPOSED, E_ABORTED.
 */
export function generate(
  model: LoadedModel,
  prompt: string | readonly number[] | Int32Array,
  options: GenerateOptions = {},
): Generation {
  checkObject('the third argument', options, 'options, such as { maxTokens: 64 }')
  return new LeavableGeneration(options.signal, async function* (signal) {
    const checked = checkOptions(options, model)
    const tokens = promptTokens(model, prompt)
    checkContext(model, tokens.length, checked.maxTokens)
    const session = model.createSession()
    try {
      return yield* decode(model, session, tokens, { ...checked, reused: 0 }, signal)
    } finally {
      session.release()
    }
  })
}

/** Runs a generation to its end, and leaves it where `onPiece` throws. */
export async function complete(
  generation: PieceGenerator,
  onPiece?: (piece: Piece) => unknown,
): Promise<Completion> {
  const gathered = new GatheredPieces()
  try {
    let next = await generation.next()
    while (!next.done) {
      gathered.add(next.value)
      await onPiece?.(next.value)
      next = await generation.next()
    }
    return gathered.completion(next.value)
  } finally {
    await generation.return(undefined)
  }
}

/** The pieces of one generation as they come, and what they make together. Time runs from when it is made. */
export class GatheredPieces {
  readonly pieces: Piece[] = []
  readonly #begin = performance.now()
  #first = this.#begin

  add(piece: Piece): void {
    if (this.pieces.length === 0) this.#first = performance.now()
    this.pieces.push(piece)
  }

  /** @throws E_ABORTED where the generation was left before its end */
  completion(end: GenerationEnd | undefined): Completion {
    if (end === undefined) throw abortedError()
    const { pieces } = this
    const decodeSeconds = (performance.now() - this.#first) / 1000
    const budgets = pieces.reduce((sum, piece) => sum + piece.activeBudget, 0)
    return {
      ...end,
      text: pieces.map((piece) => piece.text).join(''),
      tokenIds: pieces.map((piece) => piece.tokenId),
      levels: pieces.map((piece) => piece.level),
      meanActiveBudget: pieces.length > 0 ? budgets / pieces.length : 0,
      tokensPerSecond: pieces.length > 1 && decodeSeconds > 0 ? (pieces.length - 1) / decodeSeconds : 0,
      timeToFirstTokenMs: this.#first - this.#begin,
    }
  }
}

/** What decoding needs of a session. */
export type DecodingSession = Pick<Session, 'prefill' | 'sample' | 'decode' | 'speculate'>

/**
 * Prefills what the cache lacks of `tokens` at level 0 and decodes. `onCached` hears of every token that
 * enters the cache, and of the level of the pass that computed it.
 */
export async function* decode(
  model: LoadedModel,
  session: DecodingSession,
  tokens: readonly number[],
  options: DecodeOptions,
  signal: AbortSignal,
  onCached?: (token: number, level: number) => void,
): PieceGenerator {
  const { maxTokens, schedule, speculation, stop } = options
  const endTokens = new Set(model.tokenizer.eosTokenIds)
  const stream = model.tokenizer.stream(tokens)
  const filter = new StopFilter<Omit<Piece, 'text'>>(stop)
  const penalties = Penalties.of(options, tokens)
  const sampling: SamplingAt = (draw) => {
    const { temperature, topK, topP, minP, seed, topLogprobs } = options
    const penalised = penalties && { penalties: penalties.native() }
    const beside = topLogprobs > 0 ? { alternatives: topLogprobs } : {}
    return { temperature, topK, topP, minP, seed, draw, ...penalised, ...beside }
  }
  const source = speculation
    ? new SpeculativeSteps(model, session, sampling, speculation, maxTokens)
    : new ScheduledSteps(model, session, sampling, schedule, tokens.length)
  const end = (finishReason: GenerationEnd['finishReason']): GenerationEnd => {
    const { drafted, accepted } = source
    return { finishReason, promptTokens: tokens.length, drafted, accepted }
  }
  const fresh = tokens.slice(options.reused)
  await session.prefill(Int32Array.from(fresh), 0, signal)
  for (const token of fresh) onCached?.(token, 0)
  if (maxTokens === 0) return end('length')
  const first = { ...session.sample(sampling(0)), level: 0, activeBudget: levelBudget(model, 0) }
  let produced: ProducedToken[] = [first]
  for (let step = 1; ; ) {
    for (const { tokenId, level, activeBudget, logprob, likeliest } of produced) {
      if (endTokens.has(tokenId)) {
        yield* asPieces(filter.finish(stream.flush()))
        return end('stop')
      }
      penalties?.push(tokenId)
      const last = step === maxTokens
      const piece = { tokenId, level, activeBudget, logprob, ...named(likeliest, model) }
      const text = stream.push(tokenId) + (last ? stream.flush() : '')
      // Bytes of half a character become this piece's text if nothing completes them.
      yield* asPieces(filter.push(piece, text, stream.waiting))
      if (filter.stopped) return end('stop')
      if (last) {
        yield* asPieces(filter.finish())
        return end('length')
      }
      step++
    }
    const advance = await source.advance(produced.at(-1) ?? first, step - 1, signal)
    produced = advance.produced
    for (const token of advance.cached) onCached?.(token, produced[0]?.level ?? 0)
  }
}

function named(likeliest: NativeStep['likeliest'], { tokenizer }: LoadedModel): Pick<Piece, 'topLogprobs'> {
  if (likeliest === undefined) return {}
  return { topLogprobs: likeliest.map((token) => ({ ...token, text: tokenizer.textOf(token.tokenId) })) }
}

function asPieces(held: readonly Held<Omit<Piece, 'text'>>[]): Piece[] {
  return held.map(({ item, text }) => ({ text, ...item }))
}

/** An async generator that can be left while a step is under way: `return()` cancels the native work. */
export class LeavableGeneration implements Generation {
  readonly #left = new AbortController()
  readonly #pieces: PieceGenerator

  constructor(signal: AbortSignal | undefined, start: (signal: AbortSignal) => PieceGenerator) {
    this.#pieces = leavable(this.#left, signal, start)
  }

  next(): Promise<IteratorResult<Piece, GenerationEnd | undefined>> {
    return this.#pieces.next()
  }

  async return(): Promise<IteratorResult<Piece, GenerationEnd | undefined>> {
    this.#left.abort()
    return this.#pieces.return(undefined)
  }

  async throw(error: unknown): Promise<IteratorResult<Piece, GenerationEnd | undefined>> {
    this.#left.abort()
    return this.#pieces.throw(error)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

async function* leavable(
  left: AbortController,
  signal: AbortSignal | undefined,
  start: (signal: AbortSignal) => PieceGenerator,
): PieceGenerator {
  const onAbort = () => left.abort()
  if (signal?.aborted) throw abortedError()
  signal?.addEventListener('abort', onAbort)
  try {
    return yield* start(left.signal)
  } catch (error) {
    const leftByReader = left.signal.aborted && !signal?.aborted
    if (leftByReader && error instanceof FlrcError && error.code === 'E_ABORTED') {
      return undefined
    }
    throw error
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}
