import { type AllocationMethod, type FactorStorage, levelBudgets } from '../allocate.js'
import type { CalibrateOptions, Calibration, CalibrationText, ProjectionScores } from '../calibrate.js'
import { checkNumbers, checkOneOf, checkRange, checkWhole } from '../check.js'
import { FlrcError } from '../errors.js'
import type { StorageDtype } from '../format/types.js'
import { dtypes } from '../public-model.js'
import type { RecoverOptions } from '../recover.js'

/** Most of the channels that can be dropped. */
export const mostDropped = 0.75

const methods: readonly AllocationMethod[] = ['curve', 'fisher', 'energy', 'asvd', 'uniform']
const scoreKinds: readonly ScoreKind[] = ['fisher', 'gradient', 'taylor']
const storages: readonly FactorStorage[] = ['pivoted', 'plain']

/** Which of the scores of `ProjectionScores`. */
export type ScoreKind = keyof ProjectionScores

/** How much to keep: exactly one of these. */
export interface KeepOptions {
  /** Stored block parameters / dense block parameters, in (0, 1]. */
  keep?: number
  /** Bytes of all tensors as stored, embeddings included: the largest keep within them. */
  targetBytes?: number
  /**
   * Perplexity on windows held out / the dense model's, less 1, such as .05: the smallest keep within it. Holds
   * windows out, and where the texts have no more than was to be calibrated on, calibrates on fewer.
   */
  targetPerplexityIncrease?: number
  /** Tokens a second of greedy decoding at level 0 on this machine: the largest keep as fast as that. */
  targetTokensPerSecond?: number
}

export interface AllocateOptions extends KeepOptions {
  /**
   * Active budgets of the levels, falling, at most `keep`; one level of budget `keep` by default. Where a target
   * decides keep, those that are not below it are left out.
   */
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
  /**
   * Share of tokens spent at each level, any scale; equal by default. With a target, of level 0 and then of each of
   * `levels`.
   */
  levelWeights?: readonly number[]
}

export interface CompressOptions
  extends AllocateOptions,
    Omit<CalibrateOptions, 'calibration' | 'curves' | 'inputMoments' | 'mustHoldOut'> {
  /**
   * What to calibrate on (the model's own text by default), or the result of `calibrate` on this model, whose
   * options then hold (int8 and int4 want its `inputMoments`).
   */
  calibration?: readonly CalibrationText[] | Calibration
  /** As `calibrate` has it; of method `asvd` every projection that its search has measured is kept too. */
  state?: string
  /**
   * Share of the MLPs' channels to drop before ranks are shared out, up to .75, or `auto`: as many as lose least together
   * with the ranks that are cut afterwards, by the truncation curves of a calibration of the whole model. Helps much
   * where little is kept, for another pass over the text and another calibration, of what is left. Nothing by default.
   */
  dropChannels?: number | 'auto'
  /** Trains the factors towards the dense model for so many minutes; not at all by default. */
  recover?: number | RecoverOptions
}

/** Whether channels are to be dropped, if any pay. */
export function dropsChannels({ dropChannels = 0 }: Pick<CompressOptions, 'dropChannels'>): boolean {
  return dropChannels !== 0
}

const targets = ['keep', 'targetBytes', 'targetPerplexityIncrease', 'targetTokensPerSecond'] as const

/** Rejects options that no model could satisfy, before any work. E_USAGE names the option. */
export function checkCompressOptions(options: AllocateOptions & Pick<CompressOptions, 'dropChannels'>): void {
  const { keep, method = 'curve', storage = 'pivoted', dtype = 'bf16' } = options
  const given = targets.filter((name) => options[name] !== undefined)
  if (given.length !== 1) {
    const what = given.length === 0 ? 'none is given' : `${given.join(' and ')} are given`
    throw new FlrcError('E_USAGE', `${what} of ${targets.join(', ')}; give exactly one of them`)
  }
  checkTargets(options)
  if (options.levels !== undefined) checkNumbers('levels', options.levels, 'active budgets')
  if (options.levelWeights !== undefined) checkNumbers('levelWeights', options.levelWeights, 'numbers')
  checkOneOf('method', method, methods)
  // Where a target decides keep, the levels still have to fall.
  const { levels = [] } = options
  const budgets = levelBudgets(keep ?? 1, levels)
  if (method === 'asvd' && (budgets.length > 1 || levels.length > 1)) {
    throw new FlrcError('E_USAGE', 'method asvd has one level; leave levels out, or use another method')
  }
  const { dropChannels = 0 } = options
  if (dropChannels !== 'auto') {
    const expected = `auto, or a share from 0 to ${mostDropped}`
    checkRange('dropChannels', dropChannels, 0, mostDropped, expected)
  }
  checkOneOf('score', options.score ?? 'fisher', scoreKinds)
  checkOneOf('storage', storage, storages)
  checkOneOf('dtype', dtype, dtypes)
}

function checkTargets({
  keep,
  targetBytes,
  targetPerplexityIncrease,
  targetTokensPerSecond,
}: KeepOptions): void {
  if (keep !== undefined) checkRange('keep', keep, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  if (targetBytes !== undefined) checkWhole('targetBytes', targetBytes, 1)
  for (const [name, value] of Object.entries({ targetPerplexityIncrease, targetTokensPerSecond })) {
    if (value !== undefined) checkRange(name, value, Number.MIN_VALUE, Number.MAX_VALUE, 'a number above 0')
  }
}
