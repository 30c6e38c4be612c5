import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bootstrapMean, pairedDifference } from '#lib/statistics/bootstrap.js'
import { below, uniformNumbers } from '#lib/statistics/random.js'
import { throwsFlrcError } from './support/flrc-error.js'

/** About normal: the sum of twelve uniform numbers. */
function normals(count: number, seed: number): number[] {
  const uniform = uniformNumbers(seed)
  const normal = () => Array.from({ length: 12 }, uniform).reduce((sum, value) => sum + value, -6)
  return Array.from({ length: count }, normal)
}

test('uniform numbers are uniform, and different for every seed', () => {
  const uniform = uniformNumbers(3)
  const counts = new Array<number>(10).fill(0)
  for (let draw = 0; draw < 20_000; draw++) {
    const value = below(10, uniform)
    counts[value] = (counts[value] ?? 0) + 1
  }
  const firsts = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER].map((seed) => uniformNumbers(seed)())
  assert.is(new Set(firsts).size, firsts.length)
  assert.ok(firsts.every((value) => value >= 0 && value < 1))
  const chiSquare = counts.reduce((sum, count) => sum + (count - 2000) ** 2 / 2000, 0)
  // 9 degrees of freedom, p = .001
  assert.ok(chiSquare < 27.9, String(counts))
})

test('an interval of a mean is as wide as the normal law says, and covers it as often', () => {
  const scores = normals(400, 1)
  const { mean, interval } = bootstrapMean(scores)
  const spread = Math.sqrt(scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length)
  const expected = 1.96 * (spread / Math.sqrt(scores.length))
  assert.ok(Math.abs(interval[0] - (mean - expected)) < 0.1 * expected)
  assert.ok(Math.abs(interval[1] - (mean + expected)) < 0.1 * expected)

  let covered = 0
  for (let trial = 0; trial < 200; trial++) {
    const [low, high] = bootstrapMean(normals(40, 100 + trial), { resamples: 400 }).interval
    if (low <= 0 && high >= 0) covered++
  }
  // 95% less what 40 samples and 400 resamples take; 3 standard deviations are 9.
  assert.ok(covered > 175 && covered < 199, String(covered))
})

test('a weight counts as so many equal scores, which stay together', () => {
  const scores = normals(60, 4)
  const weights = scores.map((_, sample) => 1 + (sample % 3))
  const { mean, interval } = bootstrapMean(scores, { weights })
  const repeated = scores.flatMap((score, sample) => Array.from({ length: weights[sample] ?? 0 }, () => score))
  const apart = bootstrapMean(repeated)
  assert.ok(Math.abs(mean - apart.mean) < 1e-12)
  assert.ok(interval[1] - interval[0] > 1.2 * (apart.interval[1] - apart.interval[0]))
  const equal = bootstrapMean(scores, { weights: scores.map(() => 1) })
  assert.equal(equal, bootstrapMean(scores))
})

test('equal seeds give equal intervals, other seeds others', () => {
  const scores = normals(50, 2)
  assert.equal(bootstrapMean(scores, { seed: 5 }), bootstrapMean(scores, { seed: 5 }))
  assert.not.equal(bootstrapMean(scores, { seed: 5 }), bootstrapMean(scores, { seed: 6 }))
  assert.is(bootstrapMean(scores, { seed: 5 }).mean, bootstrapMean(scores, { seed: 6 }).mean)
})

test('a pair of lists shows a difference that their own intervals hide', () => {
  const b = normals(60, 3)
  const a = b.map((score, sample) => score + 0.05 + (sample % 2) * 0.02)
  const { mean, interval } = pairedDifference(a, b)
  assert.ok(Math.abs(mean - 0.06) < 1e-9)
  assert.ok(interval[0] > 0.05 && interval[1] < 0.07, String(interval))
  const [low] = bootstrapMean(a).interval
  const [, high] = bootstrapMean(b).interval
  assert.ok(low < high, 'the intervals of the means overlap')
})

test('one sample, and confidence at its ends', () => {
  assert.equal(bootstrapMean([0.3]), { mean: 0.3, interval: [0.3, 0.3] })
  const [low, high] = bootstrapMean([0, 1], { confidence: 1 }).interval
  assert.equal([low, high], [0, 1])
  // Of two resamples, quarters lie a quarter of the way between them.
  const between = (confidence: number) => bootstrapMean([0, 1, 5, 9], { resamples: 2, confidence }).interval
  const [least, most] = between(1)
  assert.ok(least < most)
  const quarter = (most - least) / 4
  const [first, last] = between(0.5)
  assert.ok(Math.abs(first - (least + quarter)) < 1e-12 && Math.abs(last - (most - quarter)) < 1e-12)
})

test('lists and options that cannot be used', async () => {
  for (const run of [
    () => bootstrapMean([]),
    () => bootstrapMean([1, Number.NaN]),
    () => bootstrapMean([1], { resamples: 0 }),
    () => bootstrapMean([1], { seed: -1 }),
    () => bootstrapMean([1], { confidence: 2 }),
    () => bootstrapMean([1, 2], { weights: [1] }),
    () => bootstrapMean([1, 2], { weights: [1, 0] }),
    () => pairedDifference([1, 2], [1]),
  ]) {
    await throwsFlrcError(run, { code: 'E_USAGE' })
  }
})

test.run()
