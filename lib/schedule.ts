import { FlrcError } from './errors.js'
import { adaptive } from './schedule/adaptive.js'
import { checkBudget, type Schedule, tolerance } from './schedule/types.js'

export { type AdaptiveOptions, adaptive, type EntropyThresholds } from './schedule/adaptive.js'
export { type LevelBudget, levelOf, type Schedule, type ScheduleContext } from './schedule/types.js'

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

const levelZero: Schedule = () => 1

/** Level 0 at every step. */
export function full(): Schedule {
  return levelZero
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
export function progressive(options: FallOptions & { shape?: ScheduleShape }): Schedule {
  // From JavaScript they may be missing, which is told as a missing budget is.
  const { from, to, over, shape = 'linear' } = Object(options) as typeof options
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

const stored: Schedule = () => {
  throw new FlrcError(
    'E_USAGE',
    'the calibrated schedule is known only with a checkpoint; give it to a generation',
  )
}

/** The schedule that the checkpoint stores, as `flrc calibrate-schedule` chose it: E_USAGE where it stores none. */
export function calibrated(): Schedule {
  return stored
}

const forms = [
  'full',
  'constant:B',
  ...Object.keys(shapes).map((shape) => `${shape}:A:B:K`),
  'adaptive:A:B',
  'adaptive:A:B:LOW:HIGH',
  'calibrated',
].join(', ')

/** How many numbers each kind takes; the first two, or the one of `constant`, are budgets. */
const parameters: Readonly<Record<string, readonly number[]>> = {
  full: [0],
  constant: [1],
  ...Object.fromEntries(Object.keys(shapes).map((shape) => [shape, [3]])),
  adaptive: [2, 4],
  calibrated: [0],
}

const numberPattern = /^(\d+(\.\d*)?|\.\d+)$/

/**
 * A schedule as the command line writes it: `full`, `constant:B`, `step:A:B:K`, `linear:A:B:K`,
 * `cosine:A:B:K`, `exponential:A:B:K`, `adaptive:A:B` or `adaptive:A:B:LOW:HIGH`, `calibrated`, with budgets A and
 * B in (0, 1], K steps, and entropies LOW and HIGH in nats.
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
  const counts = Object.hasOwn(parameters, kind) ? parameters[kind] : undefined
  if (counts === undefined) throw refuse('is of no known kind')
  const numbers = parts.map((part) => (numberPattern.test(part) ? Number(part) : Number.NaN))
  if (!counts.includes(numbers.length))
    throw refuse(`has the wrong number of values (${numbers.length}, not ${counts.join(' or ')})`)
  if (!numbers.slice(0, 2).every((budget) => budget > 0 && budget <= 1))
    throw refuse('has a budget that is not in (0, 1]')
  const [from, to, over, high] = numbers as [number, number, number, number]
  if (kind === 'full') return full()
  if (kind === 'calibrated') return calibrated()
  if (kind === 'constant') return constant(from)
  if (kind === 'adaptive') {
    if (numbers.length === 2) return adaptive({ from, to })
    if (!(over <= high && Number.isFinite(high))) throw refuse('has no thresholds LOW <= HIGH')
    return adaptive({ from, to, thresholds: { sure: over, unsure: high } })
  }
  if (!Number.isSafeInteger(over) || over < 1)
    throw refuse('has a number of steps that is not whole or below 1')
  return progressive({ from, to, over, shape: kind as ScheduleShape })
}

/** A schedule, or the same as the command line writes it: see `parseSchedule`. */
export type ScheduleChoice = Schedule | string

/** What a schedule needs to know of the model it runs on; a loaded model is one. */
export interface ScheduledModel {
  /** What the model's checkpoint was asked to keep, 1 for a dense model. */
  keep: number
  source: { path: string; flrc: { schedule?: string } | undefined }
}

/**
 * The schedule as it runs on `model`: the stored one for `calibrated`, any other as it is.
 *
 * @throws E_USAGE where a text is none, where the checkpoint stores none, or the schedule was written with a budget above what the model
 *   keeps; E_MODEL_FORMAT where the stored one cannot be read
 */
export function scheduleOn(chosen: ScheduleChoice, model: ScheduledModel): Schedule {
  const schedule = typeof chosen === 'string' ? parseSchedule(chosen) : chosen
  const found = schedule === stored ? storedSchedule(model) : schedule
  const highest = Math.max(0, ...(found.budgets ?? []))
  if (highest <= model.keep + tolerance) return found
  throw new FlrcError(
    'E_USAGE',
    `the schedule asks for an active budget of ${highest}, but the model keeps ${model.keep}; ` +
      `give budgets up to ${model.keep}, or full`,
  )
}

function storedSchedule({ source: { path, flrc } }: ScheduledModel): Schedule {
  if (flrc?.schedule === undefined) {
    throw new FlrcError(
      'E_USAGE',
      `${path}: the model stores no calibrated schedule; choose one with flrc calibrate-schedule, or give another`,
      { file: path },
    )
  }
  try {
    const found = parseSchedule(flrc.schedule)
    if (found !== stored) return found
  } catch (error) {
    if (!(error instanceof FlrcError)) throw error
  }
  throw new FlrcError(
    'E_MODEL_FORMAT',
    `${path}: the stored schedule ${JSON.stringify(flrc.schedule)} cannot be read; choose one again with flrc calibrate-schedule`,
    { file: path },
  )
}
