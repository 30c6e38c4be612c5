/** Schedules of a wanted mean active budget over a wanted number of steps. */
import type { Schedule } from 'flrc'
import { budgetName, type Candidate, candidateOf } from '#lib/schedule/search.js'
import { tolerance } from '#lib/schedule/types.js'
import type { LevelBudget, ScheduleShape } from '#lib/schedule.js'

export const families: readonly ScheduleShape[] = ['step', 'linear', 'cosine', 'exponential']

/** Mean active budget of the first `steps` steps. */
export function meanBudget({ levels: sequence }: Candidate, levels: readonly LevelBudget[]): number {
  return sequence.reduce((sum, level) => sum + (levels[level]?.budget ?? 1), 0) / sequence.length
}

/**
 * Of one family, the schedule that falls from the first level towards the last and whose mean active budget comes
 * closest to the wanted one without going above it; undefined where all are above.
 */
export function fittedSchedule(
  family: ScheduleShape,
  levels: readonly LevelBudget[],
  { budget, keep, steps }: { budget: number; keep: number; steps: number },
): Candidate | undefined {
  const [from, to] = [0, levels.length - 1].map((level) => budgetName(level, levels, keep))
  // A slower fall than this hardly begins within the steps.
  const fitting = Array.from({ length: 4 * steps }, (_, index) => index + 1)
    .map((over) => candidateOf(`${family}:${from}:${to}:${over}`, levels, steps))
    .map((candidate) => ({ candidate, mean: meanBudget(candidate, levels) }))
    .filter(({ mean }) => mean <= budget + tolerance)
  return fitting.sort((a, b) => b.mean - a.mean)[0]?.candidate
}

/** The same levels the other way round: step i has what step `steps` - i has, so that the rank rises. */
export function reversed({ levels: sequence }: Candidate, levels: readonly LevelBudget[]): Schedule {
  return (step) => levels[sequence[Math.max(1, sequence.length - step)] ?? 0]?.budget ?? 1
}
