import { tmpdir } from 'node:os'
import type { FactorStorage } from './allocate.js'
import { packageVersion } from './binding.js'
import { type Calibration, type CalibrationText, defaultMemory } from './calibrate.js'
import { calibrationWindows, givenSources } from './calibration/windows.js'
import { checkObject, checkPath, checkRange } from './check.js'
import { FlrcError } from './errors.js'
import type { StorageDtype } from './format/types.js'
import type { ModelParts, TaskOptions } from './model.js'
import type { RecoveryReport } from './recover/report.js'
import { train } from './recover/training.js'

/** Training of the factors towards the dense model, after they are cut. */
export interface RecoverOptions {
  /** How long to train. */
  minutes: number
  /** What to train on, two windows at least: the sources of the calibration by default. */
  calibration?: readonly CalibrationText[]
  /**
   * A path beside which the state is written about every minute, so that an interrupted run can go on: the file
   * is `<path>-<hash of all that decides the result>`. 12 to 16 bytes a stored block parameter. None by default.
   */
  state?: string
  /** Goes on from that state where there is one; without it a state left over is ignored and replaced. */
  resume?: boolean
}

/** Windows of a long text to train on at most; passes over more than this take hours. */
const mostWindows = 1024
/** Tokens in a window at most: of equally many tokens, many small steps make more than few large ones. */
const longestWindow = 256

export function checkRecoverOptions(recover: number | RecoverOptions | undefined): RecoverOptions | undefined {
  if (recover === undefined) return undefined
  const options = typeof recover === 'number' ? { minutes: recover } : recover
  checkObject('recover', options, 'a number of minutes, or options such as { minutes: 10 }')
  const { minutes, calibration, state } = options
  checkRange('recover', minutes, Number.MIN_VALUE, Number.MAX_VALUE, 'a number of minutes above 0')
  if (calibration !== undefined) givenSources(calibration)
  if (state !== undefined) checkPath('state', state, 'a path to keep what is done beside')
  return options
}

/** How the model was cut that is to be recovered. */
export interface RecoveredCut {
  levels: readonly Int32Array[]
  storage: FactorStorage
  dtype: StorageDtype
  levelWeights?: readonly number[]
  memory?: number
}

/**
 * The windows to train on: as many as the texts have, which may be more than were calibrated on. Where the model
 * wrote its text itself, or only a calibration is at hand, those that were calibrated on: writing more takes longer
 * than training on it.
 */
export async function recoveryWindows(
  calibration: Calibration,
  texts: readonly CalibrationText[] | undefined,
  { signal, onProgress }: TaskOptions,
): Promise<Int32Array[]> {
  const { whole, options } = calibration
  const seqLen = Math.min(longestWindow, options.seqLen)
  const more = texts !== undefined && !texts.some(isSelf)
  const windows = more
    ? (
        await calibrationWindows(whole, {
          calibration: texts,
          samples: mostWindows,
          seqLen,
          signal,
          onProgress,
        })
      ).windows
    : calibration.windows.flatMap((window) => pieces(window, seqLen))
  if (windows.length >= 2) return windows
  throw new FlrcError(
    'E_CALIBRATION',
    'recovery trains on some windows of the calibration text and holds others out; give a text of 2 windows or more',
  )
}

function isSelf(text: CalibrationText): boolean {
  return typeof text === 'object' && 'self' in text
}

/** Consecutive pieces of a window; one that is shorter stays whole. */
function pieces(window: Int32Array, length: number): Int32Array[] {
  if (window.length < length) return [window]
  const count = Math.floor(window.length / length)
  return Array.from({ length: count }, (_, index) => window.subarray(index * length, (index + 1) * length))
}

/**
 * Trains the factors of a model just cut from `calibration`, which is released. Factors narrower than bf16 are to
 * be cut in bf16: training rounds them to `dtype` itself. Errors as of `train`.
 */
export function recover(
  calibration: Calibration,
  start: ModelParts,
  windows: readonly Int32Array[],
  { minutes, state, resume = false }: RecoverOptions,
  { levels, storage, dtype, levelWeights, memory = defaultMemory() }: RecoveredCut,
  task: TaskOptions,
): Promise<{ parts: ModelParts; report: RecoveryReport }> {
  const { model, whole, options, hashes } = calibration
  const { seed } = options
  const key = {
    ...{ version: packageVersion, hashes, config: model.config, options },
    ...{ device: model.device, minutes, storage, dtype, levelWeights },
    levels: levels.map((ranks) => Array.from(ranks)),
    windows: windows.map((window) => Array.from(window)),
  }
  return train(whole, start, {
    ...{ windows, minutes, dtype, levelWeights, seed, memory },
    levels: levels.length,
    scratch: tmpdir(),
    state: state === undefined ? undefined : { prefix: state, resume, key },
    signal: task.signal,
    onProgress: task.onProgress,
  })
}
