import { refuse } from '../check.js'
import { FlrcError } from '../errors.js'
import type { LoadedModel } from '../model.js'
import { levelOf } from '../schedule.js'
import type { Session } from '../session.js'
import { fixedCosts, MeasuredCosts, SpeculationPolicy } from './speculation-policy.js'
import { type Advance, levelBudget, type ProducedToken, type SamplingAt, type TokenSource } from './steps.js'

export interface SpeculateOptions {
  /** Tokens to draft in a round at most, 1 to 15; how many are drafted follows from how many are accepted. */
  tokens: number
  /** The active budget of the drafts; it must mean a level below level 0. */
  budget: number
}

/** A pass of level 0 takes 16 columns: the last token and the drafts. */
export const mostDrafts = 15

/**
 * The cost of a column of a pass, in plain steps, where it is not measured: a little where the first round corrects it,
 * and as much as a busy processor was seen to take where nothing does.
 */
const columnGuess = { measured: 0.15, fixed: 0.5 }

/** What speculation is of a generation. */
export interface Speculation {
  /** Drafts a round at most. */
  tokens: number
  /** Level of the drafts. */
  level: number
}

/** @throws E_USAGE for options that mean nothing, or drafts at level 0 */
export function checkSpeculate({ tokens, budget }: SpeculateOptions, model: LoadedModel): Speculation {
  if (!Number.isSafeInteger(tokens) || tokens < 1 || tokens > mostDrafts) {
    refuse('speculate.tokens', tokens, `a whole number from 1 to ${mostDrafts}`)
  }
  if (!(budget > 0 && budget <= 1)) refuse('speculate.budget', budget, 'a number in (0, 1]')
  if (model.isStacked) {
    throw new FlrcError(
      'E_USAGE',
      'one pass drafts and verifies, so levels must share weights; load one checkpoint',
    )
  }
  const level = levelOf(budget, model.levels)
  if (level > 0) return { tokens, level }
  const lower = model.levels.slice(1).map((candidate) => candidate.budget.toFixed(4))
  throw new FlrcError(
    'E_USAGE',
    `speculate.budget ${budget} means level 0 of ${model.source.path}, which drafts cannot come from; ` +
      (lower.length > 0
        ? `the levels below have the budgets ${lower.join(', ')}`
        : 'the model has no level below: make some with flrc compress --levels'),
    { file: model.source.path },
  )
}

/** By level of the drafts, what a model's greedy generations have learnt of them. */
const learnt = new WeakMap<LoadedModel, Map<number, SpeculationPolicy>>()

/**
 * What passes cost is measured where tokens are greedy, and one generation goes on with what those before it have
 * learnt. Where tokens are drawn, a draw's numbers depend on what was drafted, so equal seeds give equal tokens only if
 * that depends on no clock and on no other generation: there, costs are guessed from bytes.
 */
function policyOf(model: LoadedModel, level: number, drawn: boolean): SpeculationPolicy {
  const draft = bytesOf(model, level) / bytesOf(model, 0)
  if (drawn) return new SpeculationPolicy(fixedCosts({ draft, column: columnGuess.fixed }))
  const byLevel = learnt.get(model) ?? new Map<number, SpeculationPolicy>()
  const policy =
    byLevel.get(level) ?? new SpeculationPolicy(new MeasuredCosts({ draft, column: columnGuess.measured }))
  learnt.set(model, byLevel.set(level, policy))
  policy.begin()
  return policy
}

/**
 * Self-speculation: rounds that draft at a low level and verify at level 0, and plain steps of level 0 where rounds
 * promise no gain.
 */
export class SpeculativeSteps implements TokenSource {
  drafted = 0
  accepted = 0
  readonly #model: LoadedModel
  readonly #session: Pick<Session, 'decode' | 'speculate'>
  readonly #sampling: SamplingAt
  readonly #speculation: Speculation
  readonly #maxTokens: number
  readonly #ends: Int32Array
  readonly #policy: SpeculationPolicy

  constructor(
    model: LoadedModel,
    session: Pick<Session, 'decode' | 'speculate'>,
    sampling: SamplingAt,
    speculation: Speculation,
    maxTokens: number,
  ) {
    this.#model = model
    this.#session = session
    this.#sampling = sampling
    this.#speculation = speculation
    this.#maxTokens = maxTokens
    this.#ends = Int32Array.from(model.tokenizer.eosTokenIds)
    this.#policy = policyOf(model, speculation.level, sampling(0).temperature > 0)
  }

  async advance({ tokenId }: ProducedToken, step: number, signal: AbortSignal): Promise<Advance> {
    const sampling = this.#sampling(step)
    const { level, tokens } = this.#speculation
    // A round gives one token more than it drafts at most.
    const { drafts, least } = this.#policy.next(Math.min(tokens, this.#maxTokens - step - 1))
    const begin = performance.now()
    if (drafts === 0) {
      const next = await this.#session.decode(tokenId, 0, sampling, signal)
      this.#policy.step(performance.now() - begin)
      return {
        produced: [{ ...next, level: 0, activeBudget: levelBudget(this.#model, 0) }],
        cached: [tokenId],
      }
    }
    const { steps, drafted } = await this.#session.speculate(
      tokenId,
      // The draft's probability of a token says how likely it is to be accepted only where it is the likeliest.
      { level, tokens: drafts, least: sampling.temperature > 0 ? 0 : least, ends: this.#ends },
      sampling,
      signal,
    )
    const accepted = steps.length - 1
    this.#policy.round(drafted, accepted, performance.now() - begin)
    this.drafted += drafted
    this.accepted += accepted
    const ended = steps.findIndex((next) => this.#ends.includes(next.tokenId))
    const used = ended < 0 ? steps : steps.slice(0, ended + 1)
    const read = levelBudget(this.#model, 0) + drafted * levelBudget(this.#model, level)
    return {
      produced: used.map((next) => ({ ...next, level: 0, activeBudget: read / used.length })),
      cached: [tokenId, ...steps.slice(0, accepted).map((next) => next.tokenId)],
    }
  }
}

function bytesOf(model: LoadedModel, level: number): number {
  return model.levels[level]?.bytesPerToken ?? 1
}
