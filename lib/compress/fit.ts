import type { CalibrateOptions, Calibration, Shrinkage } from '../calibrate.js'
import { sameWindows } from '../calibration/windows.js'
import { FlrcError } from '../errors.js'
import type { StorageDtype } from '../format/types.js'
import type { AllocateOptions } from './options.js'

export const isQuantised = (dtype: StorageDtype) => dtype === 'int8' || dtype === 'int4'

type Decisive = Pick<CalibrateOptions, 'labels' | 'seed' | 'whitening' | 'shrinkage' | 'samples' | 'seqLen'>

/**
 * Refuses a calibration that is not of this model's options: one whose own differ from those that are given beside
 * it, one without curves for the method `curve`, and one without moments where they are rounded against. E_USAGE
 * names the option and what to calibrate with.
 */
export function checkFit(
  calibration: Calibration,
  options: AllocateOptions & Decisive,
  dtype: StorageDtype,
): void {
  const { options: has, hasCurves } = calibration
  const { samples } = options
  if (samples !== undefined && !sameWindows(calibration.sources, has.samplesAsked, samples)) {
    throw differs('samples', has.samples, samples)
  }
  for (const name of ['labels', 'seed', 'whitening', 'seqLen'] as const) {
    const wanted = options[name]
    if (wanted === undefined || wanted === has[name]) continue
    throw differs(name, has[name], wanted)
  }
  for (const side of Object.keys(options.shrinkage ?? {}) as (keyof Shrinkage)[]) {
    const wanted = options.shrinkage?.[side]
    if (wanted === undefined || wanted === has.shrinkage[side]) continue
    throw differs(`shrinkage.${side}`, has.shrinkage[side], wanted)
  }
  if ((options.method ?? 'curve') === 'curve' && !hasCurves) {
    throw new FlrcError(
      'E_USAGE',
      'method curve wants truncation curves, which this calibration has not; calibrate with curves, or use another method',
    )
  }
  // A recovery rounds for itself, but only the allocation tells whether anything is left to train.
  if (isQuantised(dtype) && !has.inputMoments) throw withoutMoments(dtype)
}

function withoutMoments(dtype: StorageDtype): FlrcError {
  return new FlrcError(
    'E_USAGE',
    `${dtype} is rounded against the inputs' moments, which this calibration did not keep; calibrate with ` +
      'inputMoments (flrc calibrate without --dtype, or with int8 or int4)',
  )
}

function differs(name: string, has: unknown, wanted: unknown): FlrcError {
  return new FlrcError(
    'E_USAGE',
    `the calibration has ${name} ${has}, and ${wanted} is asked for; leave ${name} out, or calibrate with it`,
  )
}
