import { checkRange, checkWhole, refuse } from './check.js'
import { counted } from './counted.js'
import { abortedError, FlrcError } from './errors.js'
import { Penalties, type PenaltyOptions } from './generate/penalties.js'
import {
  checkSpeculate,
  type SpeculateOptions,
  type Speculation,
  SpeculativeSteps,
} from './generate/speculation.js'
import { levelBudget, type ProducedToken, type SamplingAt, ScheduledSteps } from './generate/steps.js'
import { type Held, StopFilter } from './generate/stop.js'
import type { LoadedModel } from './model.js'
import type { NativeStep } from './native-types.js'
import { full, type Schedule, type ScheduleChoice, scheduleOn } from './schedule.js'
import type { Session } from './session.js'

export type { PenaltyOptions } from './generate/penalties.js'
export type { SpeculateOptions } from './generate/speculation.js'

/** As many as OpenAI's API gives. */
export const mostTopLogprobs = 20

export interface GenerateOptions extends PenaltyOptions {
  /** Tokens to generate at most; 64 by default. */
  maxTokens?: number
  /**
   * The active budget of each step, counted from 0 at the first token; level 0 throughout by default. The
   * first token comes from prefill, which runs at level 0 whatever the schedule says. Text is as the command line
   * writes it, such as `linear:.9:.7:64`.
   */
  schedule?: ScheduleChoice
  /**
   * Drafts tokens at a lower level and verifies several at once at level 0: greedy tokens are those of level 0, drawn
   * ones are distributed as they are. It stops where it gains nothing. Not together with a schedule or a penalty.
   */
  speculate?: SpeculateOptions
  /** 0 (the default) is greedy. */
  temperature?: number
  /** Samples from the k likeliest tokens; 0 is off. */
  topK?: number
  /** Samples from the likeliest tokens that make up this probability; 1 is off. */
  topP?: number
  /** Leaves out tokens less likely than this share of the likeliest; 0 is off. */
  minP?: number
  /** Equal seeds give equal samples; 0 by default. */
  seed?: number
  /**
   * How many of the likeliest tokens each piece names beside its own, 20 at most; 0 by default. Not together with
   * `speculate`.
   */
  topLogprobs?: number
  /** Generation ends before the first of these strings. */
  stop?: string | readonly string[]
  /** Ends the iterator with E_ABORTED. */
  signal?: AbortSignal
}

/** One generated token. */
export interface Piece {
  /** Whole characters only: empty while a character is unfinished or a stop string may have begun. */
  text: string
  tokenId: number
  /**
   * The level of the pass that produced this token; the first comes from prefill, so from level 0, and speculated ones
   * from the pass that verified them, also level 0.
   */
  level: number
  /**
   * Block parameters read for the token / dense block parameters: those of its pass, or its equal share of what a
   * round of speculation read for drafts and verification.
   */
  activeBudget: number
  /** Natural log of the token's probability under the model, before temperature. */
  logprob: number
  /** The likeliest tokens in its place, the likeliest first, where `topLogprobs` asks for them. */
  topLogprobs?: readonly TokenLogprob[]
}

export interface TokenLogprob {
  tokenId: number
  /** Its own; where it is but a part of a character, with the sign of a missing one. */
  text: string
  /** As of a piece. */
  logprob: number
}

/** How a generation ended: what the iterator returns once it is done (undefined where it was left early). */
export interface GenerationEnd {
  /** stop: an end token (which is no piece) or a stop string; length: maxTokens reached. */
  finishReason: 'stop' | 'length'
  promptTokens: number
  /** Tokens drafted and accepted by speculation; 0 without it. */
  drafted: number
  accepted: number
}

export type PieceGenerator = AsyncGenerator<Piece, GenerationEnd | undefined, void>

/** Tokens as they are generated. Leaving it (`break`, `return()`) stops the native work and frees the cache. */
export interface Generation extends PieceGenerator {
  [Symbol.asyncDispose](): Promise<void>
}

/** A whole generation at once. */
export interface Completion extends GenerationEnd {
  text: string
  tokenIds: number[]
  /** Per token, the level of the pass that produced it. */
  levels: number[]
  /** Mean over the generated tokens of their active budget; prefill's share is the first token. */
  meanActiveBudget: number
  /** Tokens after the first per second of decoding; 0 where fewer than two were generated. */
  tokensPerSecond: number
  timeToFirstTokenMs: number
}

/**
 * Generates from a prompt (text or token ids) on a session of its own. Errors: E_CONTEXT where the prompt and
 * maxTokens exceed the context, E_USAGE for an unusable option, E_DISPOSED, E_ABORTED.
 */
export function generate(
  model: LoadedModel,
  prompt: string | readonly number[] | Int32Array,
  options: GenerateOptions = {},
): Generation {
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

/** Runs a generation to its end. */
export async function complete(
  generation: PieceGenerator,
  onPiece?: (piece: Piece) => unknown,
): Promise<Completion> {
  const gathered = new GatheredPieces()
  let next = await generation.next()
  while (!next.done) {
    gathered.add(next.value)
    await onPiece?.(next.value)
    next = await generation.next()
  }
  return gathered.completion(next.value)
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

export interface DecodeOptions
  extends Required<Omit<GenerateOptions, 'signal' | 'schedule' | 'speculate' | 'stop'>> {
  stop: readonly string[]
  schedule: Schedule | undefined
  speculation: Speculation | undefined
  /** Prompt tokens that the session's cache already holds. */
  reused: number
}

/** What decoding needs of a session. */
export type DecodingSession = Pick<Session, 'prefill' | 'sample' | 'decode' | 'speculate'>

/**
 * Prefills what the cache lacks of `tokens` at level 0 and decodes. `onCached` hears of every token that
 * enters the cache.
 */
export async function* decode(
  model: LoadedModel,
  session: DecodingSession,
  tokens: readonly number[],
  options: DecodeOptions,
  signal: AbortSignal,
  onCached?: (token: number) => void,
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
  for (const token of fresh) onCached?.(token)
  if (maxTokens === 0) return end('length')
  const first = { ...session.sample(sampling(0)), level: 0, activeBudget: levelBudget(model, 0) }
  let produced: ProducedToken[] = [first]
  for (let step = 1; ; ) {
    for (const { tokenId, level, activeBudget, logprob, likeliest } of produced) {
      if (endTokens.has(tokenId)) {
        yield* asPieces(filter.finish())
        return end('stop')
      }
      penalties?.push(tokenId)
      const last = step === maxTokens
      const piece = { tokenId, level, activeBudget, logprob, ...named(likeliest, model) }
      yield* asPieces(filter.push(piece, stream.push(tokenId) + (last ? stream.flush() : '')))
      if (filter.stopped) return end('stop')
      if (last) {
        yield* asPieces(filter.finish())
        return end('length')
      }
      step++
    }
    const advance = await source.advance(produced.at(-1) ?? first, step - 1, signal)
    for (const token of advance.cached) onCached?.(token)
    produced = advance.produced
  }
}

function named(likeliest: NativeStep['likeliest'], { tokenizer }: LoadedModel): Pick<Piece, 'topLogprobs'> {
  if (likeliest === undefined) return {}
  return { topLogprobs: likeliest.map((token) => ({ ...token, text: tokenizer.textOf(token.tokenId) })) }
}

function asPieces(held: readonly Held<Omit<Piece, 'text'>>[]): Piece[] {
  return held.map(({ item, text }) => ({ text, ...item }))
}

/** Fills in the defaults. E_USAGE names the first option that cannot be used. */
export function checkOptions(options: GenerateOptions, model: LoadedModel): Omit<DecodeOptions, 'reused'> {
  const {
    maxTokens = 64,
    schedule,
    speculate,
    temperature = 0,
    topK = 0,
    topP = 1,
    minP = 0,
    seed = 0,
    repeatPenalty = 1,
    frequencyPenalty = 0,
    presencePenalty = 0,
    topLogprobs = 0,
  } = options
  const stop = typeof options.stop === 'string' ? [options.stop] : (options.stop ?? [])
  checkWhole('maxTokens', maxTokens, 0)
  checkWhole('topK', topK, 0)
  checkWhole('seed', seed, 0)
  checkWhole('topLogprobs', topLogprobs, 0)
  if (topLogprobs > mostTopLogprobs) refuse('topLogprobs', topLogprobs, `${mostTopLogprobs} at most`)
  checkRange('temperature', temperature, 0, Number.MAX_VALUE, 'a number from 0')
  checkRange('minP', minP, 0, 1, 'a number from 0 to 1')
  checkRange('topP', topP, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  checkRange('repeatPenalty', repeatPenalty, 0.1, 10, 'a number from 0.1 to 10')
  const penalties = { repeatPenalty, frequencyPenalty, presencePenalty }
  for (const name of ['frequencyPenalty', 'presencePenalty'] as const) {
    checkRange(name, penalties[name], -2, 2, 'a number from -2 to 2')
  }
  if (schedule !== undefined && typeof schedule !== 'function' && typeof schedule !== 'string')
    refuse('schedule', schedule, 'a function of the step, or a text such as linear:.9:.7:64')
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string' || text === '')) {
    refuse('stop', JSON.stringify(options.stop), 'a string that is not empty, or a list of such')
  }
  const running = schedule === undefined ? undefined : scheduleOn(schedule, model)
  const speculation = speculate && checkSpeculate(speculate, model)
  if (speculation && running !== undefined && running !== full()) {
    throw new FlrcError(
      'E_USAGE',
      'speculation verifies every token at level 0, so it goes with no schedule but full; leave one of the two out',
    )
  }
  if (speculation && Penalties.of(penalties, [])) {
    throw new FlrcError(
      'E_USAGE',
      'speculation draws several tokens at once, so it goes with no penalty; leave one of the two out',
    )
  }
  if (speculation && topLogprobs > 0) {
    throw new FlrcError(
      'E_USAGE',
      'speculation draws several tokens at once and names none beside them; leave topLogprobs or speculate out',
    )
  }
  const sampling = { temperature, topK, topP, minP, seed, topLogprobs }
  return { maxTokens, schedule: running, speculation, ...sampling, ...penalties, stop }
}

/** The token ids of a prompt; the begin token where it is empty. E_USAGE for ids that there are not. */
export function promptTokens(model: LoadedModel, prompt: string | readonly number[] | Int32Array): number[] {
  if (typeof prompt !== 'string' && !Array.isArray(prompt) && !(prompt instanceof Int32Array)) {
    refuse('the prompt', prompt, 'a text or a list of token ids')
  }
  const tokens = Array.from(typeof prompt === 'string' ? model.tokenizer.encode(prompt) : prompt)
  const { vocabSize, bosTokenId, eosTokenIds } = model.config
  const wrong = tokens.find((token) => !Number.isSafeInteger(token) || token < 0 || token >= vocabSize)
  if (wrong !== undefined) {
    refuse('a token of the prompt', wrong, `a whole number below the vocabulary's ${vocabSize}`)
  }
  if (tokens.length > 0) return tokens
  const first = bosTokenId ?? eosTokenIds[0]
  if (first === undefined) {
    throw new FlrcError('E_USAGE', 'the prompt is empty and the model has no begin token; give a prompt')
  }
  return [first]
}

/** E_CONTEXT where the prompt and what may follow exceed the context. */
export function checkContext(model: LoadedModel, prompt: number, maxTokens: number): void {
  const context = model.config.contextLength
  if (prompt + maxTokens <= context) return
  throw new FlrcError(
    'E_CONTEXT',
    `${counted(prompt, 'prompt token')} and up to ${maxTokens} new ones exceed the context of ${context}; ` +
      `shorten the prompt or lower maxTokens (--max-tokens)`,
  )
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
