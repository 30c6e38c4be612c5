import { FlrcError } from './errors.js'

/** What a schedule may look at, besides the step. */
export interface ScheduleContext {
  /** Index of the token that the step produces in this turn; token 0 comes from prefill, at level 0. */
  step: number
  promptTokens: number
  /** Entropy in nats of the distribution that the last token was drawn from. */
  entropy: number
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

export interface FallOptions {
  /** Budget of step 0, in (0, 1]. */
  from: number
  /** Budget from step `over` on, in (0, 1]. */
  to: number
  /** Steps of the fall, a whole number of at least 1. */
  over: number
}

const shapes = {
  step: (from: number, to: number, t: number) => (t < 1 ? from : to),
  linear: (from: number, to: number, t: number) => from + (to - from) * t,
  cosine: (from: number, to: number, t: number) => to + ((from - to) * (1 + Math.cos(Math.PI * t))) / 2,
  exponential: (from: number, to: number, t: number) => from * (to / from) ** t,
}

/** How a budget goes from A to B over K steps; all give A at step 0 and B from step K on. */
export type ScheduleShape = keyof typeof shapes

function checkBudget(budget: number): void {
  if (budget > 0 && budget <= 1) return
  throw new FlrcError('E_USAGE', `the schedule's budget is ${budget}; give a number in (0, 1]`)
}

/** Level 0 at every step. */
export function full(): Schedule {
  return () => 1
}

/** @throws E_USAGE for a budget outside (0, 1] */
export function constant(budget: number): Schedule {
  checkBudget(budget)
  return Object.assign(() => budget, { budgets: [budget] })
}

/**
 * A budget that goes from `from` to `to` in the given shape (linear by default) and stays there. With
 * t = min(1, step / over): linear is A + (B - A) t, step is A before t = 1 and then B, cosine is
 * B + (A - B) (1 + cos(pi t)) / 2, exponential is A (B / A)^t.
 *
 * @throws E_USAGE for budgets outside (0, 1] or a number of steps that is not whole or below 1
 */
export function progressive({
  from,
  to,
  over,
  shape = 'linear',
}: FallOptions & { shape?: ScheduleShape }): Schedule {
  checkBudget(from)
  checkBudget(to)
  if (!Number.isSafeInteger(over) || over < 1) {
    throw new FlrcError('E_USAGE', `the schedule falls over ${over} steps; give a whole number of at least 1`)
  }
  if (!Object.hasOwn(shapes, shape)) {
    throw new FlrcError('E_USAGE', `unknown schedule shape ${shape}; give ${Object.keys(shapes).join(', ')}`)
  }
  const curve = shapes[shape]
  // Past the fall the budget is `to` itself, not what rounding makes of it.
  const schedule = (step: number) => (step >= over ? to : curve(from, to, Math.max(0, step) / over))
  return Object.assign(schedule, { budgets: [from, to] })
}

/** `from`, then `to` from step `over` on. */
export function step(options: FallOptions): Schedule {
  return progressive({ ...options, shape: 'step' })
}

/** From `from` to `to` in a straight line, reached at step `over`. */
export function linear(options: FallOptions): Schedule {
  return progressive({ ...options, shape: 'linear' })
}

const forms = ['full', 'constant:B', ...Object.keys(shapes).map((shape) => `${shape}:A:B:K`)].join(', ')

const numberPattern = /^(\d+(\.\d*)?|\.\d+)$/

/**
 * A schedule as the command line writes it: `full`, `constant:B`, `step:A:B:K`, `linear:A:B:K`,
 * `cosine:A:B:K`, `exponential:A:B:K`, with budgets A and B in (0, 1] and K steps.
 *
 * @throws E_USAGE that lists the forms
 */
export function parseSchedule(text: string): Schedule {
  const [kind = '', ...parts] = text.split(':')
  const refuse = (why: string) =>
    new FlrcError(
      'E_USAGE',
      `schedule ${JSON.stringify(text)} ${why}; give one of ${forms}, such as linear:.9:.7:64`,
    )
  const numbers = parts.map((part) => (numberPattern.test(part) ? Number(part) : Number.NaN))
  const budgets = kind === 'constant' ? numbers : numbers.slice(0, 2)
  const parameters = kind === 'full' ? 0 : kind === 'constant' ? 1 : 3
  if (kind !== 'full' && kind !== 'constant' && !Object.hasOwn(shapes, kind))
    throw refuse('is of no known kind')
  if (numbers.length !== parameters) throw refuse(`has ${numbers.length} values where ${parameters} belong`)
  if (!budgets.every((budget) => budget > 0 && budget <= 1)) throw refuse('has a budget that is not in (0, 1]')
  if (kind === 'full') return full()
  const [from, to, over] = numbers as [number, number, number]
  if (kind === 'constant') return constant(from)
  if (!Number.isSafeInteger(over) || over < 1)
    throw refuse('has a number of steps that is not whole or below 1')
  return progressive({ from, to, over, shape: kind as ScheduleShape })
}

/**
 * @param keep what the model's checkpoint was asked to keep, 1 for a dense model
 * @throws E_USAGE where the schedule was written with a budget above it
 */
export function checkSchedule(schedule: Schedule, keep: number): void {
  const highest = Math.max(0, ...(schedule.budgets ?? []))
  if (highest <= keep + tolerance) return
  throw new FlrcError(
    'E_USAGE',
    `the schedule asks for an active budget of ${highest}, but the model keeps ${keep}; ` +
      `give budgets up to ${keep}, or full`,
  )
}

/** What binary fractions may be off: a level of budget 0.7 is meant by 1 - 0.3. */
const tolerance = 1e-9

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
