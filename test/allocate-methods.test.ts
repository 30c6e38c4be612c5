import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { energyCurve } from '#lib/allocate/energy.js'
import {
  type AllocationOptions,
  allocate,
  blockCost,
  breakEvenRank,
  budgetOf,
  costOfRanks,
  denseParametersOf,
  type FactorStorage,
  type ProjectionShape,
  type Rank,
  rankAtRatio,
  sensitivityRatios,
} from '#lib/allocate.js'
import { bruteForce, llamaLike, tinyModel } from './support/allocation.js'

const storages: FactorStorage[] = ['pivoted', 'plain']

test('energy: E(r) is the sum of the squares beyond r', () => {
  assert.equal(energyCurve(Float64Array.of(3, 2, 1)), Float64Array.of(14, 5, 1, 0))
})

test('energy: with plain storage it is one threshold on s^2 / (m + n), up to break-even', () => {
  const { projections, singular } = llamaLike(3, 64, 32, 128, 12)
  const worth = projections.map(({ rows, cols }, p) =>
    Array.from(singular[p] as Float64Array, (s) => s ** 2 / (rows + cols)),
  )
  const sorted = worth.flat().sort((a, b) => b - a)
  const seen = new Set<number>()
  for (const share of [0.05, 0.1, 0.2, 0.3, 0.4]) {
    const threshold = sorted[Math.floor(share * sorted.length)] as number
    const ranks = projections.map(({ rows, cols }, p) => {
      const above = (worth[p] as number[]).filter((value) => value >= threshold).length
      return Math.max(1, Math.min(above, breakEvenRank(rows, cols)))
    })
    for (const rank of ranks) seen.add(rank)
    const budgets = budgetOf(projections, [ranks], 'plain')
    const options: AllocationOptions = { method: 'energy', storage: 'plain', budgets, allowDense: false }
    assert.equal(allocate(projections, { ...options, singular }).levels, [ranks], `threshold ${threshold}`)
  }
  assert.ok(seen.size > 20, `${seen.size} different ranks`)
})

test('energy: the allocation by curves, on E(r): storages, floors, multiples, dense option and levels', () => {
  const { projections, singular } = llamaLike(3, 64, 32, 128, 14)
  const curves = singular.map(energyCurve)
  for (const storage of storages) {
    for (const budgets of [[0.8], [0.5], [0.9, 0.7, 0.5]]) {
      for (const change of [{}, { rankFloor: 8, rankMultiple: 4 }, { allowDense: false }]) {
        const options = { storage, budgets, ...change }
        const byEnergy = allocate(projections, { method: 'energy', singular, ...options })
        const byCurve = allocate(projections, { method: 'curve', curves, ...options })
        assert.equal(byEnergy.levels, byCurve.levels)
        assert.is(byEnergy.estimatedLoss, undefined, 'energies are no losses')
      }
    }
  }
})

test('energy: mostly what trying everything finds', () => {
  let exact = 0
  let cases = 0
  for (let seed = 0; seed < 40; seed++) {
    const { projections, singular } = tinyModel(3, 7, 100 + seed)
    const curves = singular.map(energyCurve)
    for (const storage of storages) {
      for (const keep of [0.6, 0.8]) {
        const limit = Math.floor(keep * denseParametersOf(projections) + 1e-6)
        const best = bruteForce({ projections, curves }, [limit], [1], storage, true)
        const options: AllocationOptions = { method: 'energy', storage, budgets: [keep] }
        const ranks = allocate(projections, { ...options, singular }).levels[0] as Rank[]
        const loss = ranks.reduce<number>(
          (sum, rank, p) => sum + (rank === 'dense' ? 0 : (curves[p]?.[rank] as number)),
          0,
        )
        assert.ok(loss >= best * (1 - 1e-9), `seed ${seed}: ${loss} is below the best ${best}`)
        if (loss <= best * (1 + 1e-9)) exact++
        cases++
      }
    }
  }
  assert.ok(exact > 0.85 * cases, `${exact} of ${cases} are optimal`)
})

test('energy: the scale of all spectra together changes nothing', () => {
  const { projections, singular } = llamaLike(2, 64, 32, 128, 9)
  const of = (scale: number) =>
    allocate(projections, {
      method: 'energy',
      storage: 'pivoted',
      budgets: [0.8, 0.6],
      singular: singular.map((values) => values.map((value) => value * scale)),
    }).levels
  assert.equal(of(2 ** 40), of(1))
  assert.equal(of(2 ** -40), of(1))
})

test('asvd: a ratio is the largest rank that costs no more', () => {
  const shape = { rows: 100, cols: 100 }
  assert.equal(
    sensitivityRatios.map((ratio) => rankAtRatio(shape, ratio, 'plain')),
    [5, 10, 15, 20, 25, 30, 35, 40, 45],
  )
  for (const ratio of sensitivityRatios) {
    const rank = rankAtRatio(shape, ratio, 'pivoted')
    assert.ok(blockCost(shape, rank, 'pivoted') <= ratio * 10_000)
    assert.ok(blockCost(shape, rank + 1, 'pivoted') > ratio * 10_000)
  }
  assert.is(rankAtRatio({ rows: 3, cols: 3 }, 0.1, 'plain'), 1, 'never rank 0')
})

/** Projections of 100 x 100: as plain factors, ratio .1 i is rank 5 i and costs 1000 i of 10000. */
const squares = (count: number): ProjectionShape[] =>
  Array.from({ length: count }, (_, i) => ({ name: `p${i}`, kind: 'q_proj', rows: 100, cols: 100 }))

const table = [
  //                .1   .2   .3   .4   .5   .6   .7   .8   .9
  Float64Array.of(9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.1),
  Float64Array.of(2.9, 2.8, 2.7, 2.6, 2.45, 2.4, 2.3, 2.2, 2.05),
  // Noise: .3 measures worse than .2 and .4, so a threshold of 3.4 takes .2 and never .3.
  Float64Array.of(3.9, 3.4, 3.6, 3.2, 2.95, 2.75, 2.65, 2.55, 2.15),
]

test('asvd: the smallest ratio within one threshold that meets the budget', () => {
  const of = (keep: number, storage: FactorStorage = 'plain') =>
    allocate(squares(3), { method: 'asvd', storage, budgets: [keep], sensitivity: table })
  // Threshold 2.6: ratios .8, .4, .8 cost 20000 of 30000.
  assert.equal(of(2 / 3).levels, [[40, 20, 40]])
  // Threshold 3: .7, .1, .5.
  assert.equal(of(13 / 30).levels, [[35, 5, 25]])
  // Threshold 3.4: .7, .1, .2, over the dip at .3.
  assert.equal(of(10 / 30).levels, [[35, 5, 10]])
  // Threshold 2.15: .9, .9, .9.
  assert.equal(of(27 / 30).levels, [[45, 45, 45]])
  // Threshold 2.1: .9, .9, dense.
  assert.equal(of(28 / 30).levels, [[45, 45, 'dense']])
  assert.equal(of(1).levels, [['dense', 'dense', 'dense']])
})

test('asvd: what the grid leaves goes to the most sensitive, towards its next step', () => {
  const of = (keep: number, changes: Partial<AllocationOptions> = {}) =>
    allocate(squares(3), { method: 'asvd', storage: 'plain', budgets: [keep], sensitivity: table, ...changes })
  // Threshold 2.6 leaves 500 parameters, not the 1000 of the second's next tenth: 2 ranks of 200 towards it.
  assert.equal(of(0.68333334).levels, [[40, 22, 40]])
  // A step of .1 of the model would fit nowhere whole; ranks of 200 come within .002 less than one of them.
  for (const keep of [0.31, 0.47, 0.58, 0.77, 0.871]) {
    const allocation = of(keep)
    assert.ok(keep - (allocation.budgets[0] as number) < 200 / 30_000, `${keep}: ${allocation.budgets}`)
  }
  // Below the grid (ranks of 1 cost 600), those that a ratio of .1 hurts most are raised to it first.
  assert.equal(of(0.06).levels, [[5, 1, 3]])
  // Floors and multiples are those of every method; ranks between 5 and 45 by 8 are 8, 16, .. 40.
  const floored = of(13 / 30, { rankMultiple: 8, rankFloor: 16, allowDense: false }).levels[0] as number[]
  assert.ok(floored.every((rank) => rank >= 16 && rank % 8 === 0))
  assert.is(floored[1], 16)
})

test('asvd: within a rank of every budget in both storages, and never worse than its threshold says', () => {
  const { projections, sensitivity } = llamaLike(4, 96, 48, 256, 21)
  for (const storage of storages) {
    let before: Rank[] | undefined
    for (const keep of [0.95, 0.9, 0.8, 0.6, 0.4, 0.2]) {
      const { levels, budgets } = allocate(projections, {
        method: 'asvd',
        storage,
        budgets: [keep],
        sensitivity,
      })
      assert.ok(keep - (budgets[0] as number) < 0.002, `${storage} ${keep}: ${budgets}`)
      const costs = projections.map(
        (shape, p) => costOfRanks(shape, [levels[0]?.[p] as Rank], storage)[0] as number,
      )
      // Whoever was cut more at a higher keep is not given more at a lower one, but for one partial step.
      const raised = projections.filter(
        (shape, p) =>
          before && (costs[p] as number) > (costOfRanks(shape, [before[p] as Rank], storage)[0] as number),
      )
      assert.ok(raised.length <= 1, `${storage} ${keep}: ${raised.map(({ name }) => name)}`)
      before = levels[0]
    }
  }
})

test.run()
