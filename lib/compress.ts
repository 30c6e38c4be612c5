import { levelBudgets, type Sensitivity } from './allocate.js'
import { packageVersions } from './binding.js'
import {
  type CalibrateOptions,
  Calibration,
  checkCalibrateOptions,
  defaultMemory,
  type MadeWindows,
  makeWindows,
  refuseFactored,
  usualWhitening,
} from './calibrate.js'
import { usualSamples, windowLength } from './calibration/windows.js'
import { checkObject } from './check.js'
import type { CompressionPlan } from './checkpoint/plan.js'
import { checkFit, isQuantised } from './compress/fit.js'
import { heldOutPerplexity } from './compress/held-out.js'
import {
  type AllocateOptions,
  type CompressOptions,
  checkCompressOptions,
  dropsChannels,
} from './compress/options.js'
import { type Prepared, prepare } from './compress/prepare.js'
import { checkRanks, knownOf, shareRanks } from './compress/ranks.js'
import { optionsAt, solveKeep } from './compress/solve.js'
import { FlrcError } from './errors.js'
import { checkMemory, memoryNeeds, recoveryBytes } from './memory.js'
import { checkModel, type LoadedModel, type TaskOptions } from './model.js'
import type { Projection } from './projections.js'
import { Model } from './public-model.js'
import type { RecoveryReport } from './recover/report.js'
import { checkRecoverOptions, type RecoverOptions, recover, recoveryWindows } from './recover.js'

export { isQuantised } from './compress/fit.js'
export {
  type AllocateOptions,
  type CompressOptions,
  checkCompressOptions,
  type KeepOptions,
  type ScoreKind,
} from './compress/options.js'

/** Of the windows to calibrate on, the share that a target of perplexity is measured on beside them. */
const heldOutShare = 1 / 8

/**
 * Compresses a model: calibrates it (unless a calibration is given), finds the keep where a target is given, shares
 * the rank out, cuts the factors. The model given stays as it was. Errors: E_USAGE (also for a target that no keep
 * reaches, naming the nearest), E_CALIBRATION, E_CHAT_TEMPLATE, E_CONTEXT, E_NUMERIC, E_BUSY where another run has the
 * state, E_DISPOSED, E_ABORTED.
 */
export async function compress(model: LoadedModel, options: CompressOptions): Promise<Model> {
  checkModel(model)
  checkObject('the second argument', options, 'options, such as { keep: 0.9 }')
  checkCompressOptions(options)
  checkCalibrateOptions(model, options)
  const recovery = checkRecoverOptions(options.recover)
  refuseCompressed(model, options)
  checkRanks(model, optionsAt(model, options, options.keep ?? 1), dropsChannels(options))
  const begin = performance.now()
  const given = options.calibration
  const dtype = options.dtype ?? model.dtype
  const inputMoments = isQuantised(dtype)
  const { method = 'curve', whitening = method === 'asvd' ? 'scaled' : undefined } = options
  if (given instanceof Calibration) {
    if (given.model !== model) {
      throw new FlrcError('E_USAGE', 'the calibration is of another model; calibrate this one')
    }
    checkFit(given, options, dtype)
    const { labels, seed, whitening: has, shrinkage } = given.options
    const same = { labels, seed, whitening: has, shrinkage, inputMoments, curves: method === 'curve' }
    return cutFrom(
      model,
      given,
      { ...options, ...same, calibration: undefined },
      { ...options, recovery },
      begin,
    )
  }
  const { samples = usualSamples, targetPerplexityIncrease } = options
  const mustHoldOut = targetPerplexityIncrease !== undefined
  const seqLen = windowLength(model, options.seqLen)
  const asked = {
    whitening: whitening ?? usualWhitening,
    inputMoments,
    samples,
    seqLen,
    threads: model.threads,
    ranksChannels: dropsChannels(options),
  }
  // The factors come to lie beside the dense weights, and what trains them beside both.
  const weights = model.bytes + (recovery ? recoveryBytes * model.denseParameters : 0)
  checkMemory(memoryNeeds(model.config, { ...asked, weights }), options.memory)
  const calibrates = {
    ...options,
    memory: options.memory ?? defaultMemory(),
    whitening,
    calibration: given,
    curves: method === 'curve',
    inputMoments,
    heldOut: options.heldOut ?? (mustHoldOut ? Math.ceil(samples * heldOutShare) : 0),
    mustHoldOut,
  }
  const made = await makeWindows(model, calibrates)
  const texts = recovery && { calibration: given, ...recovery }
  return cutFrom(model, made, calibrates, { ...options, recovery: texts }, begin)
}

async function cutFrom(
  model: LoadedModel,
  from: Calibration | MadeWindows,
  calibrates: CalibrateOptions,
  options: CutOptions,
  begin: number,
): Promise<Model> {
  const { calibration, narrowed, release } = await prepare(model, from, calibrates, options)
  try {
    return await cut(calibration, { ...options, narrowed }, begin)
  } finally {
    release()
  }
}

type CutOptions = AllocateOptions &
  TaskOptions &
  Pick<CompressOptions, 'dropChannels' | 'state' | 'resume' | 'memory'> & { recovery?: RecoverOptions }

function refuseCompressed(model: LoadedModel, options: CompressOptions): void {
  refuseFactored(model, 'compress')
  const { source, config } = model
  const { path: file } = source
  if (dropsChannels(options) && config.intermediateSizes !== undefined) {
    const message = `channels of ${file} were dropped already; drop them from the original model`
    throw new FlrcError('E_USAGE', message, { file })
  }
}

/** Finds the keep, shares the rank out and cuts the model from the calibration's factors. */
async function cut(
  calibration: Calibration,
  given: CutOptions & Pick<Prepared, 'narrowed'>,
  begin: number,
): Promise<Model> {
  const { model, figures } = calibration
  const { narrowed } = given
  const { projections } = model
  const { method = 'curve', storage = 'pivoted', dtype = model.dtype } = given
  const { score = 'fisher', power = 1, rankFloor = 1, rankMultiple = 1, dense = true } = given
  const known = await knownOf(calibration, given)
  const solveBegin = performance.now()
  const keep = await solveKeep(calibration, known, given)
  const options = optionsAt(model, given, keep)
  const { levelWeights } = options
  const budgets = levelBudgets(keep, options.levels)
  const allocateBegin = performance.now()
  const levels = shareRanks(calibration, known, options)
  const factorizeBegin = performance.now()
  const recovery = levels[0]?.some((rank) => rank >= 0) ? options.recovery : undefined
  const windows = recovery && (await recoveryWindows(calibration, recovery.calibration, options))
  const cutDtype = recovery && isQuantised(dtype) ? 'bf16' : dtype
  let parts = await calibration.factorize({ levels, storage, dtype: cutDtype }, keep, options)
  const recoverBegin = performance.now()
  let recovered: RecoveryReport | undefined
  if (recovery && windows) {
    const how = { levels, storage, dtype, levelWeights, memory: options.memory }
    const result = await recover(calibration, parts, windows, recovery, how, options)
    parts = result.parts
    recovered = result.report
  }
  const measureBegin = performance.now()
  // A recovery may have trained on the windows held out here; it has its own.
  const measures = calibration.heldOut.length > 0 && recovered === undefined
  const perplexity = measures ? await heldOutPerplexity(calibration, parts, options) : undefined
  const decidedKeep = given.targetPerplexityIncrease !== undefined
  const heldOut = perplexity && { ...perplexity, ...(decidedKeep ? { decidedKeep } : {}) }
  const end = performance.now()

  const { whitening, shrinkage, labels, seed, samples, seqLen, tokens } = calibration.options
  const plan: CompressionPlan = {
    version: 1,
    method,
    storage,
    dtype,
    budgets,
    options: {
      ...{ whitening, labels, seed, samples, seqLen, score, power, rankFloor, rankMultiple, dense },
      ...{ inputShrinkage: shrinkage.inputs, gradientShrinkage: shrinkage.gradients },
      ...(levelWeights ? { levelWeights } : {}),
      ...(given.dropChannels ? { dropChannels: given.dropChannels } : {}),
    },
    ...(narrowed ? { channels: { dropped: narrowed.share, loss: narrowed.loss } } : {}),
    model: { ...model.source.hub, sha256: calibration.hashes.model, bytes: model.source.fileBytes },
    calibration: {
      ...{ sha256: calibration.hashes.calibration, tokens, windows: samples },
      sources: calibration.sources,
    },
    scores: byName(projections, known.scores),
    curves: byName(projections, known.curves ?? []),
    ...(method === 'energy' ? { singular: byName(projections, known.singular) } : {}),
    ...(known.search ? { sensitivity: planOf(known.search) } : {}),
    ...(heldOut ? { heldOut } : {}),
    ...(recovered ? { recovery: recovered } : {}),
    versions: packageVersions(),
  }
  const spent = figures.seconds
  const seconds = {
    ...(narrowed ? { channels: narrowed.seconds } : {}),
    calibrate: calibration.windowSeconds + spent.forward + spent.backward + spent.moments,
    factorize: spent.factorize + (recoverBegin - factorizeBegin) / 1000,
    curves: spent.curves,
    allocate: (known.search?.seconds ?? 0) + (factorizeBegin - allocateBegin) / 1000,
    ...(given.keep === undefined ? { solve: (allocateBegin - solveBegin) / 1000 } : {}),
    ...(recovered ? { recover: (measureBegin - recoverBegin) / 1000 } : {}),
    ...(heldOut ? { measure: (end - measureBegin) / 1000 } : {}),
    total: (end - begin) / 1000,
  }
  const { peakBytes, atOnce } = figures
  return new Model(parts, { plan, seconds, peakBytes, atOnce })
}

function planOf({ ratios, windows, projections }: Sensitivity): CompressionPlan['sensitivity'] {
  return { ratios, windows, losses: Object.fromEntries(projections.map(({ name, losses }) => [name, losses])) }
}

function byName<T>(projections: readonly Projection[], values: readonly T[]): Record<string, T> {
  return Object.fromEntries(values.map((value, index) => [projections[index]?.name ?? '', value]))
}
