import { type FactorStorage, rankAtRatio, type Sensitivity, sensitivityRatios } from './allocate.js'
import { SearchState } from './asvd/state.js'
import { packageVersion } from './binding.js'
import { Calibration } from './calibrate.js'
import { checkWindow } from './calibration/windows.js'
import { checkList, checkObject, checkOneOf, checkPath, checkTask, checkWhole, refuse } from './check.js'
import { FlrcError } from './errors.js'
import type { Progress, TaskOptions } from './model.js'
import type { NativeCuts } from './native-types.js'
import { concatenate } from './text.js'

export interface SensitivityOptions extends TaskOptions {
  /** What a ratio costs, and so which rank it is; `pivoted` by default. */
  storage?: FactorStorage
  /** Windows to measure on, or how many of the calibration's from the first on; all of the calibration's by default. */
  windows?: readonly Int32Array[] | number
  /** Indices of the projections to measure, in the model's order; all by default. */
  projections?: readonly number[]
  /**
   * A path beside which every measured projection is kept, so that an interrupted search can go on: the file is
   * `<path>-<hash of all that decides the result>`, and stays until you remove it. None by default.
   */
  state?: string
  /** Goes on from that state where there is one; without it a state left over is ignored and replaced. */
  resume?: boolean
}

/**
 * ASVD's sensitivity search (arXiv 2312.05821, as published): for every projection and every ratio of
 * `sensitivityRatios` cuts only that projection, leaves all others dense, and measures the loss of the calibration
 * windows. That is 63 passes a layer, of which what comes before the cut is shared; `compress` with the method
 * `asvd` allocates by what they say.
 *
 * A search over all projections is kept in the calibration, one a storage, for every later compression.
 *
 * Errors: E_USAGE for projections that do not exist, E_CALIBRATION for windows that the model cannot read, E_NUMERIC
 * for a non-finite logit, E_BUSY where another search has the state, E_DISPOSED, E_ABORTED.
 */
export async function sensitivitySearch(
  calibration: Calibration,
  options: SensitivityOptions = {},
): Promise<Sensitivity> {
  if (!(calibration instanceof Calibration))
    refuse('the calibration', typeof calibration, 'what calibrate gives')
  checkObject('the second argument', options, "options, such as { storage: 'plain' }")
  checkTask(options)
  const { storage = 'pivoted', onProgress } = options
  checkOneOf('storage', storage, ['pivoted', 'plain'])
  const { model } = calibration
  const windows = windowsOf(calibration, options.windows)
  const chosen = projectionsOf(calibration, options.projections)
  const total = chosen.length * sensitivityRatios.length
  const kept = await keptSearch(calibration, options, { storage, windows, chosen })
  const projections: Sensitivity['projections'] = [...(kept?.found ?? [])]
  try {
    for (const index of chosen.slice(projections.length)) {
      const shape = model.projections[index] as (typeof model.projections)[number]
      const beginOne = performance.now()
      const before = projections.length * sensitivityRatios.length
      onProgress?.({ stage: 'search', done: before, total })
      const ranks = Int32Array.from(sensitivityRatios, (ratio) => rankAtRatio(shape, ratio, storage))
      const cuts = { projection: index, ranks, storage }
      const losses = await meanLosses(calibration, cuts, windows, options.signal, (share) =>
        onProgress?.({ stage: 'search', done: before + Math.floor(share * ranks.length), total }),
      )
      const found = { name: shape.name, losses, seconds: (performance.now() - beginOne) / 1000 }
      projections.push(found)
      await kept?.add(found)
    }
  } finally {
    kept?.release()
  }
  onProgress?.({ stage: 'search', done: total, total })
  const found: Sensitivity = {
    storage,
    ratios: sensitivityRatios,
    projections,
    windows: windows.length,
    tokens: windows.reduce((sum, window) => sum + window.length, 0),
    seconds: projections.reduce((sum, { seconds }) => sum + seconds, 0),
  }
  if (options.projections === undefined) calibration.sensitivities.set(storage, found)
  return found
}

/** What an interrupted search of just this kind has measured, where a state is wanted. */
async function keptSearch(
  { model, hashes, options }: Calibration,
  { state, resume = false, signal }: SensitivityOptions,
  asked: { storage: FactorStorage; windows: readonly Int32Array[]; chosen: readonly number[] },
): Promise<SearchState | undefined> {
  if (state === undefined) return undefined
  checkPath('state', state, 'a path to keep what is done beside')
  const key = {
    ...{ version: packageVersion, hashes, config: model.config, options },
    ...{ dtype: model.dtype, device: model.device },
    ...{ ...asked, windows: asked.windows.map((window) => Array.from(window)) },
  }
  return SearchState.open({ prefix: state, key, resume }, signal)
}

function windowsOf(calibration: Calibration, asked: SensitivityOptions['windows']): readonly Int32Array[] {
  if (typeof asked === 'number') {
    checkWhole('windows', asked, 1)
    return calibration.windows.slice(0, asked)
  }
  if (asked === undefined) return calibration.windows
  checkList('windows', asked, 'token windows')
  if (asked.length > 0) return asked.map((window) => checkWindow(window, calibration.model))
  throw new FlrcError('E_CALIBRATION', 'no token windows to search with; give some, or leave windows out')
}

function projectionsOf({ model }: Calibration, asked: readonly number[] | undefined): readonly number[] {
  if (asked !== undefined) checkList('projections', asked, 'indices of projections')
  const count = model.projections.length
  const wrong = asked?.find((index) => !(Number.isSafeInteger(index) && index >= 0 && index < count))
  if (wrong === undefined) return asked ?? model.projections.map((_, index) => index)
  throw new FlrcError('E_USAGE', `projection ${wrong} does not exist; the model has 0 to ${count - 1}`)
}

/**
 * Mean loss in nats of the windows' next tokens, by rank, with one projection cut and all others shared with the
 * model. Windows of one length go together. `onDone` hears which share is done, from 0 to 1.
 */
async function meanLosses(
  calibration: Calibration,
  cuts: NativeCuts,
  windows: readonly Int32Array[],
  signal: AbortSignal | undefined,
  onDone: (share: number) => void,
): Promise<Float64Array> {
  const sums = new Float64Array(cuts.ranks.length)
  let read = 0
  let count = 0
  for (const length of new Set(windows.map((window) => window.length))) {
    const alike = windows.filter((window) => window.length === length)
    const onProgress = ({ done, total }: Progress) =>
      onDone((read + (alike.length * done) / total) / windows.length)
    const losses = await calibration.cutLosses(cuts, concatenate(alike), length, { signal, onProgress })
    for (const [i, loss] of losses.entries()) sums[i] = (sums[i] as number) + loss
    read += alike.length
    count += alike.length * (length - 1)
  }
  return sums.map((sum) => sum / count)
}
