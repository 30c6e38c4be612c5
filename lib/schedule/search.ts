import { parseSchedule, type ScheduleShape } from '../schedule.js'
import { type LevelBudget, levelOf, tolerance } from './types.js'

/** A schedule and the level it means at each step. */
export interface Candidate {
  /** In the command line's words, such as `step:0.9:0.7:25`. */
  schedule: string
  levels: number[]
}

/** What a schedule costs and loses, means over the tokens of all samples. */
export interface ScheduleCost {
  budget: number
  kl: number
}

/** A schedule, in the command line's words, and what is predicted of it. */
export interface Predicted extends ScheduleCost {
  schedule: string
}

/** What was found along the tokens of one sample with each level kept from step 1 on: [level][step]. */
export interface LevelTrace {
  /** KL(reference || model), nats. */
  kl: readonly (readonly number[])[]
  /** Of what the model holds likely, nats. */
  entropy: readonly (readonly number[])[]
}

/** What was found of levels that are kept throughout, along the same tokens. */
export interface LevelCurves {
  levels: readonly LevelBudget[]
  /** [level][step], mean KL in nats over the samples that reach the step. */
  kl: readonly (readonly number[])[]
  /** [step], samples that reach it. */
  samples: readonly number[]
}

/** The means of traces, which have a step at least. */
export function curvesOf(levels: readonly LevelBudget[], traces: readonly LevelTrace[]): LevelCurves {
  const lengths = traces.map(({ kl: [first = []] }) => first.length)
  const samples = Array.from(
    { length: Math.max(...lengths) },
    (_, step) => lengths.filter((length) => length > step).length,
  )
  const sumAt = (level: number, step: number) =>
    traces.reduce((sum, { kl }) => sum + (kl[level]?.[step] ?? 0), 0)
  const kl = levels.map((_, level) => samples.map((count, step) => sumAt(level, step) / count))
  return { levels, kl, samples }
}

const shapes: readonly ScheduleShape[] = ['step', 'linear', 'cosine', 'exponential']

/**
 * Every schedule of the families constant, step, linear, cosine and exponential that starts and ends at the budgets
 * of levels and falls over up to twice as many steps as there are; of those that mean the same levels at every step
 * the first, simple families before others. Step 0 comes from prefill, at level 0.
 *
 * @param keep the largest budget that a schedule may name
 */
export function scheduleCandidates(levels: readonly LevelBudget[], keep: number, steps: number): Candidate[] {
  const names = levels.map((_, level) => budgetName(level, levels, keep))
  const texts = ['full', ...names.slice(1).map((name) => `constant:${name}`)]
  for (const shape of shapes) {
    for (const [above, from] of names.entries()) {
      for (const to of names.slice(above + 1)) {
        for (let over = 1; over <= 2 * steps; over++) texts.push(`${shape}:${from}:${to}:${over}`)
      }
    }
  }
  const found = new Map<string, Candidate>()
  for (const schedule of texts) {
    const candidate = candidateOf(schedule, levels, steps)
    const key = candidate.levels.join(' ')
    if (!found.has(key)) found.set(key, candidate)
  }
  return [...found.values()]
}

/** A schedule that goes by the step alone. */
export function candidateOf(schedule: string, levels: readonly LevelBudget[], steps: number): Candidate {
  const at = parseSchedule(schedule)
  const context = { promptTokens: 0, entropy: 0, level: 0, levels }
  const levelAt = (step: number) => (step === 0 ? 0 : levelOf(at(step, { ...context, step }), levels))
  return { schedule, levels: Array.from({ length: steps }, (_, step) => levelAt(step)) }
}

/** The shortest decimal of two digits or more, at most `keep`, that means the level. */
export function budgetName(level: number, levels: readonly LevelBudget[], keep: number): string {
  const budget = levels[level]?.budget ?? 1
  for (let digits = 2; digits <= 6; digits++) {
    const rounded = Number((Math.ceil(budget * 10 ** digits) / 10 ** digits).toFixed(digits))
    if (rounded <= keep && levelOf(rounded, levels) === level) return String(rounded)
  }
  return String(budget)
}

/**
 * What a schedule costs exactly, and what it loses by the curves: the sum over steps of the loss of its level there,
 * as if the level had been kept from the start.
 */
export function predictedCost({ levels }: Candidate, curves: LevelCurves): ScheduleCost {
  let budget = 0
  let kl = 0
  let tokens = 0
  for (const [step, count] of curves.samples.entries()) {
    const level = levels[step] ?? 0
    budget += count * (curves.levels[level]?.budget ?? 1)
    kl += count * (curves.kl[level]?.[step] ?? 0)
    tokens += count
  }
  return { budget: budget / tokens, kl: kl / tokens }
}

/** Those that no other equals or beats in both budget and loss, by rising budget. */
export function paretoFront<T extends ScheduleCost>(
  points: readonly T[],
  loss: (point: T) => number = ({ kl }) => kl,
): T[] {
  const front: T[] = []
  for (const point of points.toSorted((a, b) => a.budget - b.budget || loss(a) - loss(b))) {
    const last = front.at(-1)
    if (last === undefined || loss(point) < loss(last)) front.push(point)
  }
  return front
}

/** The points of the least loss within a budget. */
export function bestWithin<T extends ScheduleCost>(points: readonly T[], budget: number, count: number): T[] {
  const within = points.filter((point) => point.budget <= budget + tolerance)
  return within.sort((a, b) => a.kl - b.kl).slice(0, count)
}

/** Points of the front at even steps of budget, its ends among them. */
export function alongFront<T extends ScheduleCost>(points: readonly T[], count: number): T[] {
  const front = paretoFront(points)
  const [low = 0, high = 0] = [front[0]?.budget, front.at(-1)?.budget]
  const nearest = (wanted: number) =>
    front.toSorted((a, b) => Math.abs(a.budget - wanted) - Math.abs(b.budget - wanted)).slice(0, 1)
  const even = Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1))
  return [...new Set(even.flatMap(nearest))]
}

/** How many schedules are run, and not only predicted: the best within the budget, and others along the front. */
const runs = { best: 4, front: 6 }
/** Times that the best are chosen anew where what they really spend is not what was predicted. */
const retries = 3
/** So much of the budget may be left. */
const slack = 0.005

/**
 * Measures the best schedules within a budget, and others along the front. Where all of the best spend more than the
 * budget, as much lower ones are measured too; where all that stay within leave some of it, higher ones.
 */
export async function measureWithin<C extends Predicted, M extends { schedule: string; budget: number }>(
  candidates: readonly C[],
  budget: number,
  measure: (chosen: readonly C[]) => Promise<M[]>,
): Promise<M[]> {
  const measured: M[] = []
  let aim = budget
  for (let round = 0; round <= retries; round++) {
    const best = bestWithin(candidates, aim, runs.best)
    const chosen = new Set(round === 0 ? [...best, ...alongFront(candidates, runs.front)] : best)
    const fresh = [...chosen].filter(({ schedule }) => measured.every((point) => point.schedule !== schedule))
    if (fresh.length > 0) measured.push(...(await measure(fresh)))
    const spent = measured
      .filter((point) => best.some(({ schedule }) => schedule === point.schedule))
      .map((point) => point.budget)
    const within = spent.filter((value) => value <= budget + tolerance)
    const left = budget - (within.length > 0 ? Math.max(...within) : Math.min(...spent))
    // Higher ones are of use only where none of the best was too high already.
    const enough = within.length > 0 && (left <= slack || within.length < spent.length)
    if (enough || best.length === 0) break
    aim += left
  }
  return measured
}

/** How many schedules are run where a bound is looked for: along the front at first, then around the bound. */
const bracket = { front: 8, between: 3, rounds: 3 }

/**
 * Measures schedules of falling budget until the cheapest that `cheapest` accepts stands next to those that it does
 * not: level 0 and others along the front of what is predicted, then some between the cheapest accepted and the next
 * below, three times.
 *
 * @param cheapest of those measured, level 0 among them
 */
export async function measureDownTo<C extends Predicted, M extends { schedule: string }>(
  candidates: readonly C[],
  cheapest: (measured: readonly M[]) => M,
  measure: (chosen: readonly C[]) => Promise<M[]>,
): Promise<M[]> {
  const front = paretoFront(candidates)
  const known = new Set([
    ...candidates.filter(({ schedule }) => schedule === 'full'),
    ...alongFront(front, bracket.front),
  ])
  const measured = await measure([...known])
  for (let round = 0; round < bracket.rounds; round++) {
    const { schedule } = cheapest(measured)
    const high = [...known].find((candidate) => candidate.schedule === schedule)?.budget ?? 1
    const low = Math.max(0, ...[...known].map(({ budget }) => budget).filter((budget) => budget < high))
    const between = front.filter(({ budget }) => budget > low && budget < high)
    const fresh = alongFront(between, bracket.between)
    if (fresh.length === 0) break
    for (const candidate of fresh) known.add(candidate)
    measured.push(...(await measure(fresh)))
  }
  return measured
}
