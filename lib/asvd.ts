import { type FactorStorage, rankAtRatio, type Sensitivity, sensitivityRatios } from './allocate.js'
import type { Calibration } from './calibrate.js'
import { checkWindow } from './calibration/windows.js'
import { checkOneOf, checkWhole } from './check.js'
import { FlrcError } from './errors.js'
import { LoadedModel, type TaskOptions } from './model.js'
import { concatenate } from './text.js'

export interface SensitivityOptions extends TaskOptions {
  /** What a ratio costs, and so which rank it is; `pivoted` by default. */
  storage?: FactorStorage
  /** Windows to measure on, or how many of the calibration's from the first on; all of the calibration's by default. */
  windows?: readonly Int32Array[] | number
  /** Indices of the projections to measure, in the model's order; all by default. */
  projections?: readonly number[]
}

/**
 * ASVD's sensitivity search (arXiv 2312.05821, as published): for every projection and every ratio of
 * `sensitivityRatios` cuts only that projection, leaves all others dense, and measures the loss of the calibration
 * windows. That is 63 passes a layer; `compress` with the method `asvd` allocates by what they say.
 *
 * A search over all projections is kept in the calibration, one a storage, for every later compression.
 *
 * Errors: E_USAGE for projections that do not exist, E_CALIBRATION for windows that the model cannot read, E_NUMERIC
 * for a non-finite logit, E_DISPOSED, E_ABORTED.
 */
export async function sensitivitySearch(
  calibration: Calibration,
  options: SensitivityOptions = {},
): Promise<Sensitivity> {
  const { storage = 'pivoted', onProgress } = options
  checkOneOf('storage', storage, ['pivoted', 'plain'])
  const { model } = calibration
  const windows = windowsOf(calibration, options.windows)
  const chosen = projectionsOf(calibration, options.projections)
  const total = chosen.length * sensitivityRatios.length
  const begin = performance.now()
  const projections: Sensitivity['projections'] = []
  for (const index of chosen) {
    const shape = model.projections[index] as (typeof model.projections)[number]
    const beginOne = performance.now()
    const losses = new Float64Array(sensitivityRatios.length)
    for (const [i, ratio] of sensitivityRatios.entries()) {
      onProgress?.({ stage: 'search', done: projections.length * losses.length + i, total })
      const rank = rankAtRatio(shape, ratio, storage)
      losses[i] = await lossWithOneCut(calibration, index, rank, storage, windows, options)
    }
    projections.push({ name: shape.name, losses, seconds: (performance.now() - beginOne) / 1000 })
  }
  onProgress?.({ stage: 'search', done: total, total })
  const found: Sensitivity = {
    storage,
    ratios: sensitivityRatios,
    projections,
    windows: windows.length,
    tokens: windows.reduce((sum, window) => sum + window.length, 0),
    seconds: (performance.now() - begin) / 1000,
  }
  if (options.projections === undefined) calibration.sensitivities.set(storage, found)
  return found
}

function windowsOf(calibration: Calibration, asked: SensitivityOptions['windows']): readonly Int32Array[] {
  if (typeof asked === 'number') {
    checkWhole('windows', asked, 1)
    return calibration.windows.slice(0, asked)
  }
  if (asked === undefined) return calibration.windows
  if (asked.length > 0) return asked.map((window) => checkWindow(window, calibration.model))
  throw new FlrcError('E_CALIBRATION', 'no token windows to search with; give some, or leave windows out')
}

function projectionsOf({ model }: Calibration, asked: readonly number[] | undefined): readonly number[] {
  const count = model.projections.length
  const wrong = asked?.find((index) => !(Number.isSafeInteger(index) && index >= 0 && index < count))
  if (wrong === undefined) return asked ?? model.projections.map((_, index) => index)
  throw new FlrcError('E_USAGE', `projection ${wrong} does not exist; the model has 0 to ${count - 1}`)
}

/** Mean loss in nats of the windows' next tokens, with one projection cut and all others shared with the model. */
async function lossWithOneCut(
  calibration: Calibration,
  index: number,
  rank: number,
  storage: FactorStorage,
  windows: readonly Int32Array[],
  { signal }: TaskOptions,
): Promise<number> {
  const { model } = calibration
  const ranks = new Int32Array(model.projections.length).fill(-1)
  ranks[index] = rank
  // Any other type would be a copy of every dense projection.
  const factors = { levels: [ranks], storage, dtype: model.dtype }
  const cut = new LoadedModel(await calibration.factorize(factors, 1, { signal }))
  try {
    return await meanLoss(cut, windows, { signal })
  } finally {
    cut.dispose()
  }
}

async function meanLoss(
  model: LoadedModel,
  windows: readonly Int32Array[],
  task: TaskOptions,
): Promise<number> {
  let sum = 0
  let count = 0
  for (const length of new Set(windows.map((window) => window.length))) {
    const alike = windows.filter((window) => window.length === length)
    for (const loss of await model.windowLosses(concatenate(alike), length, 0, task)) sum += loss
    count += alike.length * (length - 1)
  }
  return sum / count
}
