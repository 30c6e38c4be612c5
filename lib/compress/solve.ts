import { denseParametersOf, levelBudgets } from '../allocate.js'
import type { Calibration } from '../calibrate.js'
import { FlrcError } from '../errors.js'
import { LoadedModel, type TaskOptions } from '../model.js'
import { windowPerplexity } from './held-out.js'
import type { AllocateOptions } from './options.js'
import { type Known, shareRanks, smallestKeepOf } from './ranks.js'

/** Least keep that is tried: what is smaller says little any more. */
export const leastKeep = 0.05
/** Keeps nearer to each other than this are not told apart, and at most so many are tried. */
const resolution = 5e-4
const mostTries = 12

/** A value of a keep that rises with it, less the wanted one. */
type Excess = (keep: number) => Promise<number>

export interface Crossing {
  /** The largest keep that was found to have no excess, and its excess; undefined where none has. */
  below: { keep: number; excess: number } | undefined
  /** The smallest keep that was found to have some; undefined where none has. */
  above: { keep: number; excess: number } | undefined
}

/**
 * Where a rising excess crosses zero between `leastKeep` and 1, by regula falsi: the next keep is where a straight
 * line between the bracket's ends crosses, the end that stays counting half each time it stays (Illinois), and the
 * middle where two steps have not halved the bracket. The line is followed to the middle of what is near enough, not
 * to zero, where an almost straight excess (bytes) would end a hair on the wrong side.
 *
 * @param near an excess, in size, of the wanted side that is near enough to end
 */
export async function crossing(
  excess: Excess,
  wanted: 'below' | 'above',
  near: number,
  least = leastKeep,
): Promise<Crossing> {
  const at = async (keep: number) => ({ keep, excess: await excess(keep) })
  let above = await at(1)
  if (above.excess <= 0) return { below: above, above: undefined }
  let below = await at(least)
  if (below.excess > 0) return { below: undefined, above: below }
  const aim = (wanted === 'below' ? -near : near) / 2
  const weight = { below: 1, above: 1 }
  let slow = above.keep - below.keep
  for (let tries = 0; tries < mostTries && above.keep - below.keep > resolution; tries++) {
    if (Math.abs(wanted === 'below' ? below.excess : above.excess) <= near) break
    const width = above.keep - below.keep
    const [low, high] = [(aim - below.excess) * weight.below, (above.excess - aim) * weight.above]
    const halve = tries % 2 === 1 && width > slow / 2
    if (tries % 2 === 1) slow = width
    const middle = await at(
      below.keep + width * (halve ? 0.5 : Math.min(0.98, Math.max(0.02, low / (low + high)))),
    )
    if (middle.excess > 0) {
      above = middle
      weight.above = 1
      weight.below /= 2
    } else {
      below = middle
      weight.below = 1
      weight.above /= 2
    }
  }
  return { below, above }
}

/** Where the options name a target, the keep that meets it; otherwise their keep. Errors as of `compress`. */
export async function solveKeep(
  calibration: Calibration,
  known: Known,
  options: AllocateOptions & TaskOptions,
): Promise<number> {
  const { keep, targetBytes, targetPerplexityIncrease, targetTokensPerSecond } = options
  if (keep !== undefined) return keep
  const trial: Trial = (share, measure) => cutFor(calibration, known, options, share, measure)
  const least = Math.max(leastKeep, smallestKeepOf(calibration, known, options))
  if (targetBytes !== undefined) return keepOfBytes(trial, targetBytes, least)
  if (targetPerplexityIncrease !== undefined) {
    return keepOfPerplexity(calibration, trial, targetPerplexityIncrease, { ...options, least })
  }
  return keepOfSpeed(calibration.whole, trial, targetTokensPerSecond ?? 0, { ...options, least })
}

/** Cuts a model at a keep, measures it, and lets it go. */
type Trial = <T>(keep: number, measure: (small: LoadedModel) => T | Promise<T>) => Promise<T>

async function cutFor<T>(
  calibration: Calibration,
  known: Known,
  options: AllocateOptions & TaskOptions,
  keep: number,
  measure: (small: LoadedModel) => T | Promise<T>,
): Promise<T> {
  const { storage = 'pivoted', dtype = calibration.model.dtype, signal, onProgress } = options
  const tell: TaskOptions['onProgress'] =
    onProgress && (({ stage, ...rest }) => onProgress({ stage: `keep ${keep.toFixed(4)}: ${stage}`, ...rest }))
  const levels = shareRanks(calibration, known, optionsAt(calibration.model, options, keep))
  const small = new LoadedModel(
    await calibration.factorize({ levels, storage, dtype }, keep, { signal, onProgress: tell }),
  )
  try {
    return await measure(small)
  } finally {
    small.dispose()
  }
}

/**
 * The options at a keep that a target led to: without the levels that are not below it, and their weights. Weights
 * are of level 0 and then of each of `levels`.
 */
export function atKeep(
  { levels = [], levelWeights }: AllocateOptions,
  keep: number,
): { keep: number; levels: readonly number[]; levelWeights: readonly number[] | undefined } {
  const stays = (budget: number | undefined) => budget === undefined || budget < keep
  return {
    keep,
    levels: levels.filter(stays),
    levelWeights: levelWeights?.filter((_, level) => level === 0 || stays(levels[level - 1])),
  }
}

/**
 * The options at their own keep, or at one that a target led to. Without the levels that would read all there is, as
 * level 0 does, where so many channels were dropped that the model has no more than their budgets.
 */
export function optionsAt<T extends AllocateOptions>(
  { projections, denseParameters }: Pick<LoadedModel, 'projections' | 'denseParameters'>,
  options: T,
  keep: number,
): T & { keep: number } {
  const at = options.keep === undefined ? { ...options, ...atKeep(options, keep) } : { ...options, keep }
  const all = denseParametersOf(projections) / denseParameters
  const budgets = levelBudgets(keep, at.levels)
  const stays = budgets.map((budget, level) => level === 0 || budget < all)
  if (!stays.includes(false)) return at
  return {
    ...at,
    levels: budgets.filter((_, level) => level > 0 && stays[level]),
    levelWeights: at.levelWeights?.filter((_, level) => stays[level]),
  }
}

async function keepOfBytes(trial: Trial, target: number, least: number): Promise<number> {
  const excess = (keep: number) => trial(keep, ({ storedBytes }) => storedBytes - target)
  const { below, above } = await crossing(excess, 'below', target * 1e-3, least)
  if (below) return below.keep
  throw unreachable(`${target} bytes`, `keep ${least} takes ${target + (above?.excess ?? 0)}`)
}

async function keepOfPerplexity(
  calibration: Calibration,
  trial: Trial,
  target: number,
  { least, ...task }: TaskOptions & { least: number },
): Promise<number> {
  const { heldOut, whole } = calibration
  if (heldOut.length === 0) {
    throw new FlrcError(
      'E_CALIBRATION',
      'the calibration has no windows left to measure perplexity on; give a longer text, fewer samples, or ' +
        'calibrate with heldOut',
    )
  }
  const dense = await windowPerplexity(whole, heldOut, 0, task)
  // The less is kept the higher the perplexity, so what rises with keep is what of the target is left.
  const excess = (keep: number) =>
    trial(keep, async (small) => target - ((await windowPerplexity(small, heldOut, 0, task)) / dense - 1))
  const { below, above } = await crossing(excess, 'above', target * 0.02, least)
  if (!above) {
    const nearest = percent(target - (below?.excess ?? 0))
    throw unreachable(`a perplexity increase of ${percent(target)}`, `keep 1 has ${nearest}`, calibration.model)
  }
  return above.keep
}

/** Tokens that a speed is measured over, how often, and how often keep is corrected by what was measured. */
const speedTokens = 32
const speedRuns = 5
const mostCorrections = 4
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0 }

/**
 * Decoding reads its weights once a token, so speed goes by bytes: from the dense model's speed follow the bytes a
 * token may read, from them keep, and then it is measured whether that is so.
 */
async function keepOfSpeed(
  model: LoadedModel,
  trial: Trial,
  target: number,
  { signal, least }: TaskOptions & { least: number },
): Promise<number> {
  const dense = await decodingSpeed(model, signal)
  let bytes = ((model.levels[0]?.bytesPerToken ?? 0) * dense) / target
  let best = { keep: 1, speed: dense }
  for (let correction = 0; correction < mostCorrections; correction++) {
    const room = bytes
    const excess = (keep: number) => trial(keep, ({ levels }) => (levels[0]?.bytesPerToken ?? 0) - room)
    const { below } = await crossing(excess, 'below', room * 5e-3, least)
    const keep = below?.keep ?? least
    const speed = await trial(keep, (small) => decodingSpeed(small, signal))
    if (speed >= target) return keep
    if (speed > best.speed) best = { keep, speed }
    if (!below) break
    bytes *= (speed / target) * 0.99
  }
  throw unreachable(
    `${target} tokens/s`,
    `the fastest that was measured is ${best.speed.toFixed(1)} at keep ${best.keep.toFixed(3)} (dense: ${dense.toFixed(1)})`,
  )
}

/** Median tokens a second of decoding at level 0; what is decoded makes no difference. */
async function decodingSpeed(model: LoadedModel, signal: AbortSignal | undefined): Promise<number> {
  const steps = Math.min(speedTokens, model.config.contextLength - 1)
  const token = model.config.bosTokenId ?? 0
  const speeds: number[] = []
  for (let run = 0; run < speedRuns; run++) {
    const session = model.createSession()
    try {
      await session.prefill(Int32Array.of(token), 0, signal)
      const begin = performance.now()
      for (let draw = 0; draw < steps; draw++) await session.decode(token, 0, { ...greedy, draw }, signal)
      speeds.push((1000 * steps) / (performance.now() - begin))
    } finally {
      session.release()
    }
  }
  return speeds.sort((a, b) => a - b)[speedRuns >> 1] ?? 0
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`
}

/** @param narrow the model that is cut, where it lacking some channels may be what keeps the target from being reached */
function unreachable(target: string, nearest: string, narrow?: LoadedModel): FlrcError {
  const { intermediateSizes: left, intermediateSize = 1 } = narrow?.config ?? {}
  const dropped = left && 1 - left.reduce((sum, size) => sum + size, 0) / (left.length * intermediateSize)
  const without = dropped === undefined ? '' : ` without ${percent(dropped)} of the channels`
  const fewer = dropped === undefined ? '' : ', a smaller --drop-channels'
  return new FlrcError(
    'E_USAGE',
    `no keep reaches ${target}${without}: ${nearest}; give a target that can be reached${fewer}, or another --dtype`,
  )
}
