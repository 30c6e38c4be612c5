import {
  type AllocationMethod,
  allocate,
  type FactorStorage,
  levelBudgets,
  type Sensitivity,
} from './allocate.js'
import { sensitivitySearch } from './asvd.js'
import { callNative, packageVersion } from './binding.js'
import {
  type CalibrateOptions,
  Calibration,
  type CalibrationText,
  calibrate,
  type ProjectionScores,
} from './calibrate.js'
import { checkOneOf, checkRange } from './check.js'
import type { CompressionPlan } from './checkpoint/plan.js'
import { FlrcError } from './errors.js'
import type { StorageDtype } from './format/types.js'
import type { LoadedModel, Projection, TaskOptions } from './model.js'
import { dtypes, Model } from './public-model.js'
import type { RecoveryReport } from './recover/report.js'
import { checkRecoverOptions, type RecoverOptions, recover, recoveryWindows } from './recover.js'

const methods: readonly AllocationMethod[] = ['curve', 'fisher', 'energy', 'asvd', 'uniform']
const scoreKinds: readonly ScoreKind[] = ['fisher', 'gradient', 'taylor']
const storages: readonly FactorStorage[] = ['pivoted', 'plain']

/** Which of the scores of `ProjectionScores`. */
export type ScoreKind = keyof ProjectionScores

export interface AllocateOptions {
  /** Stored block parameters / dense block parameters, in (0, 1]. */
  keep: number
  /** Active budgets of the levels, falling, at most `keep`; one level of budget `keep` by default. */
  levels?: readonly number[]
  /**
   * `curve` by default. `asvd` has one level, and searches for hours where the model is large: see
   * `sensitivitySearch`, whose result it uses where the calibration has one.
   */
  method?: AllocationMethod
  /** How factors are stored: `pivoted` (default) needs the fewest numbers, `plain` is for research. */
  storage?: FactorStorage
  /**
   * Type that factors and what stays dense are stored in; the model's own by default. int8 and int4 are rounded
   * against the calibration's moments.
   */
  dtype?: StorageDtype
  /** What `fisher` goes by; `fisher`, sum (G o W)^2, by default. */
  score?: ScoreKind
  /** Exponent of `fisher`: rank in proportion to score^power; 1 by default. */
  power?: number
  /** Least rank of a factored projection: whole ranks, or a share of full rank below 1. */
  rankFloor?: number
  /** Ranks are multiples of this; 1 by default. */
  rankMultiple?: number
  /** Whether a projection may be left dense; true by default. */
  dense?: boolean
  /** Share of tokens spent at each level, any scale; equal by default. */
  levelWeights?: readonly number[]
}

export interface CompressOptions
  extends AllocateOptions,
    Omit<CalibrateOptions, 'calibration' | 'curves' | 'inputMoments'> {
  /**
   * What to calibrate on (the model's own text by default), or the result of `calibrate` on this model, whose
   * options then hold (int8 and int4 want its `inputMoments`).
   */
  calibration?: readonly CalibrationText[] | Calibration
  /** Trains the factors towards the dense model for so many minutes; not at all by default. */
  recover?: number | RecoverOptions
}

/** Rejects options that no model could satisfy, before any work. E_USAGE names the option. */
export function checkCompressOptions(options: AllocateOptions): void {
  const { keep, levels, method = 'curve', storage = 'pivoted', dtype = 'bf16' } = options
  checkRange('keep', keep, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  const budgets = levelBudgets(keep, levels)
  checkOneOf('method', method, methods)
  if (method === 'asvd' && budgets.length > 1) {
    throw new FlrcError('E_USAGE', 'method asvd has one level; leave levels out, or use another method')
  }
  checkOneOf('score', options.score ?? 'fisher', scoreKinds)
  checkOneOf('storage', storage, storages)
  checkOneOf('dtype', dtype, dtypes)
}

/**
 * Compresses a model: calibrates it (unless a calibration is given), shares the rank out, cuts the factors. The
 * model given stays as it was. Errors: E_USAGE, E_CALIBRATION, E_CHAT_TEMPLATE, E_CONTEXT, E_NUMERIC, E_DISPOSED, E_ABORTED.
 */
export async function compress(model: LoadedModel, options: CompressOptions): Promise<Model> {
  checkCompressOptions(options)
  const recovery = checkRecoverOptions(options.recover)
  refuseCompressed(model)
  const begin = performance.now()
  const given = options.calibration
  if (given instanceof Calibration) {
    if (given.model === model) return cut(given, { ...options, recovery }, begin)
    throw new FlrcError('E_USAGE', 'the calibration is of another model; calibrate this one')
  }
  const { method = 'curve', whitening = method === 'asvd' ? 'scaled' : undefined } = options
  const calibration = await calibrate(model, {
    ...options,
    whitening,
    calibration: given,
    curves: method === 'curve',
    inputMoments: recovery === undefined && isQuantised(options.dtype ?? model.dtype),
  })
  try {
    const texts = recovery && { calibration: given, ...recovery }
    return await cut(calibration, { ...options, recovery: texts }, begin)
  } finally {
    calibration.dispose()
  }
}

const isQuantised = (dtype: StorageDtype) => dtype === 'int8' || dtype === 'int4'

function refuseCompressed(model: LoadedModel): void {
  const factored = model.levels.some(({ ranks }) => Object.values(ranks).some((rank) => rank !== 'dense'))
  if (!factored) return
  throw new FlrcError('E_USAGE', `${model.source.path} is compressed already; compress the original model`, {
    file: model.source.path,
  })
}

/** Shares the rank out and cuts the model from the calibration's factors. */
async function cut(
  calibration: Calibration,
  options: AllocateOptions & TaskOptions & { recovery?: RecoverOptions; memory?: number },
  begin: number,
): Promise<Model> {
  const { model, figures } = calibration
  const { projections } = model
  const { keep, method = 'curve', storage = 'pivoted', dtype = model.dtype, levelWeights } = options
  const { score = 'fisher', power = 1, rankFloor = 1, rankMultiple = 1, dense = true } = options
  const budgets = levelBudgets(keep, options.levels)
  const scores = projections.map(({ name }) => calibration.scores[name]?.[score] ?? 0)
  const curves = calibration.curves.every((curve) => curve.length > 0) ? calibration.curves : undefined
  const { singular } = figures
  const search = method === 'asvd' ? await searched(calibration, storage, options) : undefined
  const sensitivity = search?.projections.map(({ losses }) => losses)

  const allocateBegin = performance.now()
  const shared = { method, storage, budgets, levelWeights, power, rankFloor, rankMultiple }
  const known = { scores, curves, singular, sensitivity }
  const allocation = allocate(projections, { ...shared, ...known, allowDense: dense })
  const factorizeBegin = performance.now()
  const levels = allocation.levels.map((ranks) =>
    Int32Array.from(ranks, (rank) => (rank === 'dense' ? -1 : rank)),
  )
  const recovery = levels[0]?.some((rank) => rank >= 0) ? options.recovery : undefined
  const windows = recovery && (await recoveryWindows(calibration, recovery.calibration, options))
  const cutDtype = recovery && isQuantised(dtype) ? 'bf16' : dtype
  if (isQuantised(cutDtype) && !calibration.options.inputMoments) {
    throw new FlrcError(
      'E_USAGE',
      `${cutDtype} is rounded against the inputs' moments, which this calibration did not keep; calibrate with inputMoments`,
    )
  }
  let parts = await calibration.factorize({ levels, storage, dtype: cutDtype }, keep, options)
  const recoverBegin = performance.now()
  let recovered: RecoveryReport | undefined
  if (recovery && windows) {
    const how = { levels, storage, dtype, levelWeights, memory: options.memory }
    const result = await recover(calibration, parts, windows, recovery, how, options)
    parts = result.parts
    recovered = result.report
  }
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
    },
    model: { sha256: calibration.hashes.model },
    calibration: {
      ...{ sha256: calibration.hashes.calibration, tokens, windows: samples },
      sources: calibration.sources,
    },
    scores: byName(projections, scores),
    curves: byName(projections, curves ?? []),
    ...(method === 'energy' ? { singular: byName(projections, singular) } : {}),
    ...(search ? { sensitivity: planOf(search) } : {}),
    ...(recovered ? { recovery: recovered } : {}),
    versions: {
      flrc: packageVersion,
      node: process.versions.node,
      blas: callNative((addon) => addon.info().blas),
    },
  }
  const spent = figures.seconds
  const seconds = {
    calibrate: calibration.windowSeconds + spent.forward + spent.backward + spent.moments,
    factorize: spent.factorize + (recoverBegin - factorizeBegin) / 1000,
    curves: spent.curves,
    allocate: (search?.seconds ?? 0) + (factorizeBegin - allocateBegin) / 1000,
    ...(recovered ? { recover: (end - recoverBegin) / 1000 } : {}),
    total: (end - begin) / 1000,
  }
  const { peakBytes, atOnce } = figures
  return new Model(parts, { plan, seconds, peakBytes, atOnce })
}

/** What the calibration's search found, or searches now. */
async function searched(
  calibration: Calibration,
  storage: FactorStorage,
  { signal, onProgress }: TaskOptions,
): Promise<Sensitivity> {
  const found = calibration.sensitivities.get(storage)
  return found ?? (await sensitivitySearch(calibration, { storage, signal, onProgress }))
}

function planOf({ ratios, windows, projections }: Sensitivity): CompressionPlan['sensitivity'] {
  return { ratios, windows, losses: Object.fromEntries(projections.map(({ name, losses }) => [name, losses])) }
}

function byName<T>(projections: readonly Projection[], values: readonly T[]): Record<string, T> {
  return Object.fromEntries(values.map((value, index) => [projections[index]?.name ?? '', value]))
}
