import { FlrcError } from '../errors.js'
import type { LoadedModel } from '../model.js'
import type { NativeSampling, NativeStep } from '../native-types.js'
import { levelOf, type Schedule, type ScheduleContext } from '../schedule.js'
import type { Session } from '../session.js'

/** A token and the pass that produced it. */
export interface ProducedToken extends NativeStep {
  level: number
  activeBudget: number
}

/** What follows a token. */
export interface Advance {
  /** At least one; an end token may be among them. */
  produced: ProducedToken[]
  /** What has entered the cache. */
  cached: number[]
}

/** Where the tokens of one generation come from, after the first. */
export interface TokenSource {
  /** Drafts made and accepted so far. */
  readonly drafted: number
  readonly accepted: number
  /** @param step index of the token to produce, which is also the sampling's draw */
  advance(last: ProducedToken, step: number, signal: AbortSignal): Promise<Advance>
}

export type SamplingAt = (draw: number) => NativeSampling

export function levelBudget(model: LoadedModel, level: number): number {
  return model.levels[level]?.budget ?? 1
}

/** One token a pass, at the level that the schedule says. */
export class ScheduledSteps implements TokenSource {
  readonly drafted = 0
  readonly accepted = 0
  readonly #model: LoadedModel
  readonly #session: Pick<Session, 'decode'>
  readonly #sampling: SamplingAt
  readonly #schedule: Schedule | undefined
  readonly #promptTokens: number

  constructor(
    model: LoadedModel,
    session: Pick<Session, 'decode'>,
    sampling: SamplingAt,
    schedule: Schedule | undefined,
    promptTokens: number,
  ) {
    this.#model = model
    this.#session = session
    this.#sampling = sampling
    this.#schedule = schedule
    this.#promptTokens = promptTokens
  }

  async advance(last: ProducedToken, step: number, signal: AbortSignal): Promise<Advance> {
    const { levels } = this.#model
    const { tokenId, entropy, level: before } = last
    const context = { step, promptTokens: this.#promptTokens, entropy, level: before, levels }
    const level = levelAt(this.#schedule, context)
    const next = await this.#session.decode(tokenId, level, this.#sampling(step), signal)
    const activeBudget = levelBudget(this.#model, level)
    return { produced: [{ ...next, level, activeBudget }], cached: [tokenId] }
  }
}

/** The level that a schedule means at a step; level 0 where there is none. E_USAGE where it gives no budget. */
export function levelAt(schedule: Schedule | undefined, context: ScheduleContext): number {
  if (!schedule) return 0
  const budget = schedule(context.step, context)
  if (typeof budget !== 'number' || !Number.isFinite(budget)) {
    throw new FlrcError(
      'E_USAGE',
      `the schedule gave ${String(budget)} at step ${context.step}; it must return an active budget in (0, 1]`,
    )
  }
  return levelOf(budget, context.levels)
}
