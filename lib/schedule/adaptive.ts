import { FlrcError } from '../errors.js'
import { checkBudget, levelOf, type Schedule } from './types.js'

export interface AdaptiveOptions {
  /** Budget while the model is unsure, in (0, 1]. */
  from: number
  /** Budget while it is sure, in (0, 1]. */
  to: number
  /**
   * Entropies in nats, `sure` at most `unsure`: below the one `to` is chosen, above the other `from`, and between
   * them it stays as it was. By default .5 and 1.5.
   */
  thresholds?: EntropyThresholds
}

/** Entropies in nats, `sure` at most `unsure`. */
export interface EntropyThresholds {
  sure: number
  unsure: number
}

/** Whether the model counts as sure, which between the thresholds depends on whether it did before. */
export function countsAsSure(entropy: number, before: boolean, { sure, unsure }: EntropyThresholds): boolean {
  return entropy < sure || (before && entropy <= unsure)
}

/**
 * A budget that follows how sure the model is: `to` once the entropy of the last distribution falls below the one
 * threshold, `from` again once it rises above the other. What it was is read from the level of the last pass, so
 * the schedule has no state, and one may serve several generations.
 *
 * @throws E_USAGE for budgets outside (0, 1] or thresholds that are no entropies or in the wrong order
 */
export function adaptive(options: AdaptiveOptions): Schedule {
  // From JavaScript they may be missing, which is told as a missing budget is.
  const { from, to, thresholds = { sure: 0.5, unsure: 1.5 } } = Object(options) as AdaptiveOptions
  checkBudget(from)
  checkBudget(to)
  const { sure, unsure } = thresholds
  if (!(sure >= 0 && sure <= unsure && Number.isFinite(unsure))) {
    throw new FlrcError(
      'E_USAGE',
      `the thresholds are ${sure} and ${unsure}; give entropies in nats, sure not above unsure`,
    )
  }
  const schedule: Schedule = (_step, { entropy, level, levels }) =>
    countsAsSure(entropy, level === levelOf(to, levels), { sure, unsure }) ? to : from
  return Object.assign(schedule, { budgets: [from, to] })
}
