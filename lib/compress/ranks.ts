import { type Allocation, allocate, levelBudgets, type Sensitivity } from '../allocate.js'
import { sensitivitySearch } from '../asvd.js'
import type { Calibration } from '../calibrate.js'
import type { TaskOptions } from '../model.js'
import type { AllocateOptions } from './options.js'

/** What an allocation goes by besides its options. */
export interface Known {
  scores: number[]
  curves: readonly Float64Array[] | undefined
  singular: readonly Float64Array[]
  /** Of method `asvd`. */
  search: Sensitivity | undefined
}

/** The calibration's findings; with method `asvd` also those of its search, which is made now if it was not. */
export async function knownOf(
  calibration: Calibration,
  {
    method = 'curve',
    storage = 'pivoted',
    score = 'fisher',
    signal,
    onProgress,
  }: AllocateOptions & TaskOptions,
): Promise<Known> {
  const { curves, figures } = calibration
  const found = calibration.sensitivities.get(storage)
  const task = { storage, signal, onProgress }
  return {
    scores: calibration.model.projections.map(({ name }) => calibration.scores[name]?.[score] ?? 0),
    curves: curves.every((curve) => curve.length > 0) ? curves : undefined,
    singular: figures.singular,
    search: method === 'asvd' ? (found ?? (await sensitivitySearch(calibration, task))) : undefined,
  }
}

/** Shares the rank out, and gives it as the native side takes it: by level, -1 for dense. */
export function shareRanks(
  { model }: Calibration,
  { search, ...known }: Known,
  options: AllocateOptions & { keep: number },
): { allocation: Allocation; levels: Int32Array[] } {
  const { method = 'curve', storage = 'pivoted', levelWeights, power = 1 } = options
  const { rankFloor = 1, rankMultiple = 1, dense: allowDense = true } = options
  const budgets = levelBudgets(options.keep, options.levels)
  const sensitivity = search?.projections.map(({ losses }) => losses)
  const shared = { method, storage, budgets, levelWeights, power, rankFloor, rankMultiple, allowDense }
  const allocation = allocate(model.projections, { ...shared, ...known, sensitivity })
  const levels = allocation.levels.map((ranks) =>
    Int32Array.from(ranks, (rank) => (rank === 'dense' ? -1 : rank)),
  )
  return { allocation, levels }
}
