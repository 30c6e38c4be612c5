import { countsAsSure, type EntropyThresholds } from './adaptive.js'
import { budgetName, type LevelTrace, type Predicted, type ScheduleCost } from './search.js'
import type { LevelBudget } from './types.js'

/** EntropyThresholds stand at as many quantiles of the entropies seen, evenly apart. */
const quantiles = 12

/**
 * Adaptive schedules between the budgets of any two levels, with every pair of thresholds out of the quantiles of
 * the traces' entropies, and what each costs and loses along the traces: at each step the level follows from the
 * entropy and the level before, and the step's entropy and loss are those of that level, as if it had been kept from
 * the start.
 *
 * @param keep the largest budget that a schedule may name
 */
export function adaptiveCandidates(
  levels: readonly LevelBudget[],
  keep: number,
  traces: readonly LevelTrace[],
): Predicted[] {
  const marks = quantilesOf(traces.flatMap(({ entropy }) => entropy.flat()))
  const thresholds = marks.flatMap((sure, index) => marks.slice(index + 1).map((unsure) => ({ sure, unsure })))
  const names = levels.map((_, level) => budgetName(level, levels, keep))
  return names.flatMap((from, high) =>
    names.slice(high + 1).flatMap((to, below) =>
      thresholds.map((between) => ({
        schedule: `adaptive:${from}:${to}:${between.sure}:${between.unsure}`,
        ...costAlong(traces, levels, { high, low: high + 1 + below, between }),
      })),
    ),
  )
}

/** Rising, in ten thousandths of a nat. */
function quantilesOf(entropies: readonly number[]): number[] {
  const sorted = Float64Array.from(entropies).sort()
  const at = (share: number) => Number((sorted[Math.floor(share * sorted.length)] ?? 0).toFixed(4))
  return [...new Set(Array.from({ length: quantiles }, (_, i) => at((i + 1) / (quantiles + 1))))]
}

function costAlong(
  traces: readonly LevelTrace[],
  levels: readonly LevelBudget[],
  { high, low, between }: { high: number; low: number; between: EntropyThresholds },
): ScheduleCost {
  let budget = 0
  let kl = 0
  let tokens = 0
  for (const trace of traces) {
    const steps = trace.kl[0]?.length ?? 0
    // The first token comes from prefill, at level 0.
    let level = 0
    for (let step = 0; step < steps; step++) {
      if (step > 0) {
        const entropy = trace.entropy[level]?.[step - 1] ?? 0
        level = countsAsSure(entropy, level === low, between) ? low : high
      }
      budget += levels[level]?.budget ?? 1
      kl += trace.kl[level]?.[step] ?? 0
    }
    tokens += steps
  }
  return { budget: budget / tokens, kl: kl / tokens }
}
