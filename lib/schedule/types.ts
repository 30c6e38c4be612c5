import { FlrcError } from '../errors.js'

/** What a schedule may look at, besides the step. */
export interface ScheduleContext {
  /** Index of the token that the step produces in this turn; token 0 comes from prefill, at level 0. */
  step: number
  promptTokens: number
  /** Entropy in nats of the distribution that the last token was drawn from. */
  entropy: number
  /** The level of the pass that produced the last token. */
  level: number
  /** The model's levels, level 0 first, with their realised budgets. */
  levels: readonly LevelBudget[]
}

export interface LevelBudget {
  /** Block parameters read per token / dense block parameters. */
  budget: number
}

/**
 * The active budget of a decode step: a fraction of the dense block parameters. Any pure function will do;
 * `levelOf` turns its budget into a level.
 */
export interface Schedule {
  (step: number, context: ScheduleContext): number
  /** The budgets it was written with, where a factory made it, for `checkSchedule`. */
  readonly budgets?: readonly number[]
}

/** @throws E_USAGE for a budget outside (0, 1] */
export function checkBudget(budget: number): void {
  if (budget > 0 && budget <= 1) return
  throw new FlrcError('E_USAGE', `the schedule's budget is ${budget}; give a number in (0, 1]`)
}

/** What binary fractions may be off: a level of budget 0.7 is meant by 1 - 0.3. */
export const tolerance = 1e-9

/**
 * The level that a budget means: the one with the largest budget not above it, or the last where all are
 * above. A level's realised budget is at or a little below the one asked for, so the budget that a level was
 * asked for means that level.
 *
 * @param levels level 0 first, budgets falling
 */
export function levelOf(budget: number, levels: readonly LevelBudget[]): number {
  const level = levels.findIndex((candidate) => candidate.budget <= budget + tolerance)
  return level < 0 ? levels.length - 1 : level
}
