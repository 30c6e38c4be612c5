import {
  type AllocationOptions,
  allocate,
  checkAllocation,
  levelBudgets,
  type Sensitivity,
  smallestKeep,
} from '../allocate.js'
import { sensitivitySearch } from '../asvd.js'
import type { CalibrateOptions, Calibration } from '../calibrate.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import type { AllocateOptions } from './options.js'

/**
 * Rejects options that `shareRanks` would reject after the model was calibrated. E_USAGE.
 *
 * @param narrows whether channels are still to be dropped, after which less may be enough
 */
export function checkRanks(
  model: LoadedModel,
  options: AllocateOptions & { keep: number },
  narrows = false,
): void {
  const asked = allocationOptions(model, {}, options, levelBudgets(options.keep, options.levels))
  checkAllocation(model.projections, asked, narrows)
}

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
    state,
    resume,
    signal,
    onProgress,
  }: AllocateOptions & Pick<CalibrateOptions, 'state' | 'resume'> & TaskOptions,
): Promise<Known> {
  const { curves, figures, hasCurves } = calibration
  const found = calibration.sensitivities.get(storage)
  const task = { storage, state, resume, signal, onProgress }
  return {
    scores: calibration.model.projections.map(({ name }) => calibration.scores[name]?.[score] ?? 0),
    curves: hasCurves ? curves : undefined,
    singular: figures.singular,
    search: method === 'asvd' ? (found ?? (await sensitivitySearch(calibration, task))) : undefined,
  }
}

/** Shares the rank out, and gives it as the native side takes it: by level, -1 for dense. */
export function shareRanks(
  { model }: Calibration,
  known: Known,
  options: AllocateOptions & { keep: number },
): Int32Array[] {
  const asked = allocationOptions(model, known, options, levelBudgets(options.keep, options.levels))
  const { levels } = allocate(model.projections, asked)
  return levels.map((ranks) => Int32Array.from(ranks, (rank) => (rank === 'dense' ? -1 : rank)))
}

/** The smallest keep that these options allow. */
export function smallestKeepOf({ model }: Calibration, known: Known, options: AllocateOptions): number {
  return smallestKeep(model.projections, allocationOptions(model, known, options, [1]))
}

function allocationOptions(
  { denseParameters }: LoadedModel,
  { search, ...known }: Partial<Known>,
  options: AllocateOptions,
  budgets: readonly number[],
): AllocationOptions {
  const { method = 'curve', storage = 'pivoted', levelWeights, power = 1 } = options
  const { rankFloor = 1, rankMultiple = 1, dense: allowDense = true } = options
  const sensitivity = search?.projections.map(({ losses }) => losses)
  const shared = { method, storage, budgets, levelWeights, power, rankFloor, rankMultiple, allowDense }
  return { ...shared, ...known, sensitivity, denseParameters }
}
