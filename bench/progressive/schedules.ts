/** Schedules of a wanted mean active budget over a wanted number of steps. */
import { budgetName, type Candidate, candidateOf } from '#lib/schedule/search.js'
import { tolerance } from '#lib/schedule/types.js'
import type { LevelBudget, ScheduleShape } from '#lib/schedule.js'

export const families: readonly ScheduleShape[] = ['step', 'linear', 'cosine', 'exponential']

/** How many texts have a token at each step, from the first on: what a mean over tokens weighs steps by. */
export type Reached = readonly number[]

/** Texts that all have so many tokens. */
export function evenly(steps: number): Reached {
  return Array.from({ length: steps }, () => 1)
}

/** Mean active budget over the tokens of texts of such lengths. */
export function meanBudget(
  { levels: sequence }: Candidate,
  levels: readonly LevelBudget[],
  reached: Reached,
): number {
  const tokens = reached.reduce((sum, count) => sum + count, 0)
  const budgetAt = (step: number) => levels[sequence[step] ?? 0]?.budget ?? 1
  return reached.reduce((sum, count, step) => sum + count * budgetAt(step), 0) / tokens
}

/**
 * Of one family, the schedule that goes from the first level to the last, or rises from the last to the first, and
 * whose mean active budget comes closest to the wanted one without going above it; undefined where all are above.
 */
export function fittedSchedule(
  family: ScheduleShape,
  levels: readonly LevelBudget[],
  {
    budget,
    keep,
    reached,
    rising = false,
  }: { budget: number; keep: number; reached: Reached; rising?: boolean },
): Candidate | undefined {
  const ends = [0, levels.length - 1].map((level) => budgetName(level, levels, keep))
  const [from, to] = rising ? ends.toReversed() : ends
  // A slower fall than this hardly begins within the steps.
  const fitting = Array.from({ length: 4 * reached.length }, (_, index) => index + 1)
    .map((over) => candidateOf(`${family}:${from}:${to}:${over}`, levels, reached.length))
    .map((candidate) => ({ candidate, mean: meanBudget(candidate, levels, reached) }))
    .filter(({ mean }) => mean <= budget + tolerance)
  return fitting.sort((a, b) => b.mean - a.mean)[0]?.candidate
}
