import type { ScheduleChoice } from '../schedule.js'
import type { PenaltyOptions } from './penalties.js'
import type { SpeculateOptions } from './speculation.js'

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
