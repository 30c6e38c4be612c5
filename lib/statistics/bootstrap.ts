import { checkRange, checkWhole, refuse } from '../check.js'
import { below, uniformNumbers } from './random.js'

export interface BootstrapOptions {
  /** Times the samples are drawn anew; 10000 by default. */
  resamples?: number
  /** Equal seeds give equal intervals; 0 by default. */
  seed?: number
  /** Share of the resampled means that the interval holds; .95 by default. */
  confidence?: number
  /** How much each score counts in a mean, such as the tokens that it is a mean over; all the same by default. */
  weights?: readonly number[]
}

/** A mean, and where it may lie. */
export interface Estimate {
  mean: number
  /** [low, high] */
  interval: [number, number]
}

/**
 * The mean of a list of scores, one a sample, and its percentile bootstrap interval (Efron, 1979): the samples
 * are drawn anew with replacement, and the interval cuts off equal shares of the resampled means on both
 * sides. With weights, both are weighted means, and a sample drawn anew brings its weight along. Errors: E_USAGE for
 * an empty list, a score that is not finite, or an unusable option.
 */
export function bootstrapMean(scores: readonly number[], options: BootstrapOptions = {}): Estimate {
  const { resamples = 10_000, seed = 0, confidence = 0.95, weights } = options
  checkWhole('resamples', resamples, 1)
  checkWhole('seed', seed, 0)
  checkRange('confidence', confidence, 0, 1, 'a number from 0 to 1')
  if (scores.length === 0) refuse('the list of scores', 'empty', 'one score a sample')
  const wrong = scores.find((score) => !Number.isFinite(score))
  if (wrong !== undefined) refuse('a score', wrong, 'a finite number')
  if (weights && (weights.length !== scores.length || !weights.every((weight) => weight > 0))) {
    refuse('the list of weights', weights.join(', '), 'one number above 0 a score')
  }
  const uniform = uniformNumbers(seed)
  const draw = () => below(scores.length, uniform)
  const means = Float64Array.from({ length: resamples }, () => meanOf(scores, weights, draw)).sort()
  const outside = (1 - confidence) / 2
  return {
    mean: meanOf(scores, weights, (place) => place),
    interval: [quantile(means, outside), quantile(means, 1 - outside)],
  }
}

/**
 * The mean of a - b, two lists of scores of the same samples in the same order, and its interval by paired
 * bootstrap: what samples have in common falls out, so the interval is far narrower than those of the two
 * means, and one that leaves out 0 is a difference. Errors: those of `bootstrapMean`, and E_USAGE for lists
 * of different lengths.
 */
export function pairedDifference(
  a: readonly number[],
  b: readonly number[],
  options: BootstrapOptions = {},
): Estimate {
  if (a.length !== b.length) {
    refuse(
      'the second list of scores',
      `${b.length} long`,
      `as long as the first (${a.length}): the same samples`,
    )
  }
  return bootstrapMean(
    a.map((score, sample) => score - (b[sample] ?? Number.NaN)),
    options,
  )
}

/** The mean of as many scores as there are, those that `draw` names. */
function meanOf(
  scores: readonly number[],
  weights: readonly number[] | undefined,
  draw: (place: number) => number,
): number {
  let sum = 0
  let total = 0
  for (let place = 0; place < scores.length; place++) {
    const drawn = draw(place)
    const weight = weights?.[drawn] ?? 1
    sum += weight * (scores[drawn] ?? 0)
    total += weight
  }
  return sum / total
}

/** Linear between neighbours, as numpy's default. */
function quantile(sorted: Float64Array, share: number): number {
  const position = share * (sorted.length - 1)
  const index = Math.floor(position)
  const low = sorted[index] ?? 0
  const high = sorted[index + 1] ?? low
  return low + (high - low) * (position - index)
}
