import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { lossesOf } from '#lib/allocate/chains.js'
import { ChainSolver } from '#lib/allocate/envelope.js'
import { lowerHull } from '#lib/allocate/hull.js'
import { type Item, makeProblem } from '#lib/allocate/problem.js'
import { type Allocation, allocate, blockCost, denseParametersOf, type FactorStorage } from '#lib/allocate.js'
import { bruteForce, llamaLike, seeded, type TestModel, tinyModel } from './support/allocation.js'

const storages: FactorStorage[] = ['pivoted', 'plain']
const equal = (count: number) => new Array<number>(count).fill(1 / count)

function weighted({ estimatedLoss = [] }: Allocation, weights: readonly number[]): number {
  return estimatedLoss.reduce((sum, loss, level) => sum + loss * (weights[level] as number), 0)
}

function limitsOf(model: TestModel, budgets: readonly number[]): number[] {
  const dense = denseParametersOf(model.projections)
  return budgets.map((budget) => Math.floor(budget * dense + 1e-6))
}

/** Gain of the largest segment of any hull: what merging hulls can be off by. */
function largestSegment(model: TestModel, storage: FactorStorage): number {
  const options = { method: 'curve', storage, budgets: [1] } as const
  const problem = makeProblem(model.projections, options, undefined)
  const losses = lossesOf(problem, model.curves)
  const gains = problem.items.flatMap((item, p) => {
    const hull = lowerHull(item, losses[p] as Float64Array, storage)
    return hull.slice(1).map((point, i) => (hull[i]?.loss as number) - point.loss)
  })
  return Math.max(...gains)
}

test('the lower hull is convex, falls, and no point is below it', () => {
  for (let seed = 0; seed < 100; seed++) {
    const model = tinyModel(1, 30, seed)
    for (const storage of storages) {
      const options = { method: 'curve', storage, budgets: [1] } as const
      const problem = makeProblem(model.projections, options, undefined)
      const item = problem.items[0] as Item
      const loss = lossesOf(problem, model.curves)[0] as Float64Array
      const hull = lowerHull(item, loss, storage)
      for (let i = 1; i < hull.length; i++) {
        const [a, b, c] = [hull[i - 1], hull[i], hull[i + 1]]
        if (!a || !b) throw new Error('the hull has a hole')
        assert.ok(b.cost > a.cost && b.loss < a.loss)
        const slope = (a.loss - b.loss) / (b.cost - a.cost)
        if (c) assert.ok(slope > (b.loss - c.loss) / (c.cost - b.cost))
        for (let index = 0; index < item.lowestCount; index++) {
          const cost = blockCost(item, item.ranks[index] as number, storage)
          assert.ok(
            (loss[index] as number) >= a.loss - slope * (cost - a.cost) - 1e-9,
            `rank ${item.ranks[index]}`,
          )
        }
      }
    }
  }
})

test('one level: the optimum in most small cases, never off by more than one hull segment', () => {
  let cases = 0
  let optimal = 0
  for (let seed = 1; seed <= 80; seed++) {
    for (const storage of storages) {
      for (const allowDense of [true, false]) {
        for (const keep of [0.55, 0.8]) {
          const model = tinyModel(3 + (seed % 3), 8, seed)
          const best = bruteForce(model, limitsOf(model, [keep]), [1], storage, allowDense)
          if (best === Number.POSITIVE_INFINITY) continue
          const options = {
            method: 'curve',
            storage,
            budgets: [keep],
            curves: model.curves,
            allowDense,
          } as const
          const allocation = allocate(model.projections, options)
          const loss = weighted(allocation, [1])
          const label = `seed ${seed} ${storage} ${keep}`
          assert.ok(loss >= best - 1e-9, `${label}: ${loss} is below the best ${best}`)
          assert.ok((allocation.lowerBound as number) <= best + 1e-9, `${label}: the bound is above the best`)
          if (allowDense) {
            const bound = (allocation.lowerBound as number) + largestSegment(model, storage)
            assert.ok(loss <= bound + 1e-9, `${label}: ${loss} is above ${bound}`)
          }
          cases++
          if (loss <= best * (1 + 1e-9) + 1e-12) optimal++
        }
      }
    }
  }
  assert.ok(cases > 400, `${cases} cases`)
  assert.ok(optimal > 0.85 * cases, `${optimal} of ${cases} are optimal`)
})

test('levels: the optimum in most small cases, and the bound is one', () => {
  let cases = 0
  let optimal = 0
  let excess = 0
  for (let seed = 1; seed <= 60; seed++) {
    for (const storage of storages) {
      for (const allowDense of [true, false]) {
        for (const [budgets, weights] of [
          [[0.9, 0.6], equal(2)],
          [
            [0.8, 0.5],
            [0.2, 0.8],
          ],
          [[0.9, 0.8, 0.6], equal(3)],
        ] as [number[], number[]][]) {
          const model = tinyModel(budgets.length === 3 ? 2 + (seed % 2) : 3 + (seed % 2), 7, seed)
          const best = bruteForce(model, limitsOf(model, budgets), weights, storage, allowDense)
          if (best === Number.POSITIVE_INFINITY) continue
          const allocation = allocate(model.projections, {
            ...{ method: 'curve', storage, budgets, levelWeights: weights },
            ...{ curves: model.curves, allowDense },
          })
          const loss = weighted(allocation, weights)
          const label = `seed ${seed} ${storage} ${budgets}`
          assert.ok(loss >= best - 1e-9, `${label}: ${loss} is below the best ${best}`)
          assert.ok((allocation.lowerBound as number) <= best + 1e-9, `${label}: the bound is above the best`)
          cases++
          excess += loss / Math.max(best, 1e-12) - 1
          if (loss <= best * (1 + 1e-9) + 1e-12) optimal++
        }
      }
    }
  }
  assert.ok(cases > 400, `${cases} cases`)
  assert.ok(optimal > 0.8 * cases, `${optimal} of ${cases} are optimal`)
  assert.ok(excess / cases < 0.03, `${excess / cases} above the optimum on average`)
})

test('levels of a model of many projections come within .2% of the bound', () => {
  for (const storage of storages) {
    for (const budgets of [[0.8], [0.9, 0.7], [0.95, 0.9, 0.8, 0.7]]) {
      const model = llamaLike(12, 96, 48, 256, 8)
      const options = { method: 'curve', storage, budgets, curves: model.curves } as const
      const allocation = allocate(model.projections, options)
      const loss = weighted(allocation, equal(budgets.length))
      const bound = allocation.lowerBound as number
      assert.ok(bound <= loss && loss <= bound * 1.002, `${storage} ${budgets}: ${loss} against ${bound}`)
    }
  }
})

test('curve loses less than fisher and uniform, by its own measure', () => {
  const model = llamaLike(4, 96, 48, 256, 2)
  for (const storage of storages) {
    for (const budgets of [[0.8], [0.9, 0.8, 0.7]]) {
      const [curve, fisher, uniform] = (['curve', 'fisher', 'uniform'] as const).map((method) =>
        weighted(allocate(model.projections, { method, storage, budgets, ...model }), equal(budgets.length)),
      ) as [number, number, number]
      assert.ok(curve < fisher && curve < uniform, `${curve}, ${fisher}, ${uniform}`)
    }
  }
})

test('weight on a level makes that level better at the cost of the other', () => {
  const model = llamaLike(3, 96, 48, 256, 7)
  const at = (levelWeights: number[]) =>
    allocate(model.projections, {
      ...{ method: 'curve', storage: 'pivoted', budgets: [0.9, 0.6] },
      ...{ curves: model.curves, levelWeights },
    }).estimatedLoss as [number, number]
  const [high, low] = at([9, 1])
  const [otherHigh, otherLow] = at([1, 9])
  assert.ok(high < otherHigh, `level 0: ${high}, ${otherHigh}`)
  assert.ok(low > otherLow, `level 1: ${low}, ${otherLow}`)
  assert.equal(at([1, 0]).length, 2, 'a level that is never used still gets ranks')
})

test('a curve that rises again is not followed', () => {
  const projections = [
    { name: 'a', kind: 'q_proj', rows: 10, cols: 10 },
    { name: 'b', kind: 'q_proj', rows: 10, cols: 10 },
  ]
  const curves = [
    Float64Array.of(9, 5, 3, 3.5, 3.2, 3.1, 3.05, 3.04, 3.03, 3.02, 3.01),
    Float64Array.of(9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5, 0),
  ]
  const options = { method: 'curve', storage: 'pivoted', budgets: [0.68], curves, allowDense: false } as const
  assert.equal(allocate(projections, options).levels, [[2, 10]])
})

test('a projection before a norm, whose curve starts at nothing, is not cut to the bone', () => {
  const projections = [
    { name: 'a', kind: 'q_proj', rows: 8, cols: 8 },
    { name: 'b', kind: 'q_proj', rows: 8, cols: 8 },
  ]
  const curves = [Float64Array.of(0, 0.5, 4, 6, 5, 3, 2, 1, 0), Float64Array.of(7, 6, 5, 4, 3, 2, 1, 0.5, 0)]
  const options = { method: 'curve', storage: 'pivoted', budgets: [0.7], curves, allowDense: false } as const
  const [[a] = []] = allocate(projections, options).levels
  assert.ok(typeof a === 'number' && a > 2, `rank ${a}`)
})

test('curves cut short (randomised factors) bound the rank; beyond them there is only dense', () => {
  const model = llamaLike(2, 64, 32, 128, 5)
  const curves = model.curves.map((curve) => curve.slice(0, 13))
  for (const budgets of [[0.7], [0.7, 0.5]]) {
    const { levels } = allocate(model.projections, { method: 'curve', storage: 'pivoted', budgets, curves })
    assert.ok(levels.flat().every((rank) => rank === 'dense' || rank <= 12))
    assert.ok(levels[0]?.includes('dense'))
  }
})

test('curves that say nothing is lost anywhere still give an allocation', () => {
  const model = tinyModel(3, 8, 3)
  const curves = model.curves.map((curve) => curve.map(() => 0))
  for (const budgets of [[0.7], [0.9, 0.6]]) {
    const allocation = allocate(model.projections, { method: 'curve', storage: 'pivoted', budgets, curves })
    assert.ok(allocation.budgets.every((budget, level) => budget > 0 && budget <= (budgets[level] as number)))
  }
})

test('curves of any scale give the same ranks', () => {
  const model = llamaLike(2, 64, 32, 128, 5)
  for (const budgets of [[0.8], [0.9, 0.6]]) {
    const of = (scale: number) =>
      allocate(model.projections, {
        ...{ method: 'curve', storage: 'pivoted', budgets },
        curves: model.curves.map((curve) => curve.map((value) => value * scale)),
      }).levels
    assert.equal(of(2 ** 40), of(1))
    assert.equal(of(2 ** -40), of(1))
  }
})

test('the best chain of ranks at given prices is the best of all chains', () => {
  const random = seeded(21)
  for (let round = 0; round < 300; round++) {
    const model = tinyModel(1, 12, round)
    const storage = storages[round % 2] as FactorStorage
    const budgets = [0.9, 0.7, 0.5].slice(0, 1 + (round % 3))
    const options = {
      method: 'curve',
      storage,
      budgets,
      rankMultiple: round % 4 === 0 ? 2 : 1,
      levelWeights: equal(budgets.length),
    } as const
    const problem = makeProblem(
      model.projections,
      { ...options, budgets: budgets.map((_, i) => 1 - i / 100) },
      undefined,
    )
    const item = problem.items[0] as Item
    const loss = lossesOf(problem, model.curves)[0] as Float64Array
    let price = 0
    const prices = Float64Array.from(
      budgets,
      () => (price += random() < 0.2 ? 0 : random() * (loss[0] as number) * 0.02),
    )
    const chain = new Int32Array(budgets.length)
    const solver = new ChainSolver(item.ranks.length, budgets.length)
    const found = solver.solve(item, loss, problem, prices, chain, 0)
    const value = (indices: readonly number[]) =>
      indices.reduce((sum, index, level) => {
        const below = level + 1 < indices.length ? (item.ranks[indices[level + 1] as number] as number) : 0
        const block = blockCost(item, (item.ranks[index] as number) - below, storage)
        return (
          sum + (problem.weights[level] as number) * (loss[index] as number) + (prices[level] as number) * block
        )
      }, 0)
    let best = Number.POSITIVE_INFINITY
    const extend = (indices: number[], most: number) => {
      if (indices.length === budgets.length) {
        if ((indices[indices.length - 1] as number) < item.lowestCount) best = Math.min(best, value(indices))
        return
      }
      for (let index = 0; index <= most; index++) extend([...indices, index], index)
    }
    extend([], item.ranks.length - 1)
    const tolerance = 1e-12 * (1 + Math.abs(best)) * item.size
    assert.ok(Math.abs(found - best) <= tolerance, `round ${round}: ${found}, best ${best}`)
    assert.ok(
      Math.abs(value([...chain]) - best) <= tolerance,
      `round ${round}: the chain ${chain} is not the best`,
    )
  }
})

test('210 projections of up to 1536 ranks take seconds, one level a fraction', () => {
  const model = llamaLike(30, 1536, 1536, 4096, 1)
  const time = (budgets: number[]) => {
    const begin = performance.now()
    const { budgets: realised } = allocate(model.projections, {
      ...{ method: 'curve', storage: 'pivoted', budgets, curves: model.curves },
    })
    for (const [level, budget] of budgets.entries()) assert.ok(budget - (realised[level] as number) < 1e-4)
    return performance.now() - begin
  }
  const [one, four] = [time([0.8]), time([0.95, 0.9, 0.8, 0.7])]
  console.log(`allocation of 210 x 1536: one level ${one.toFixed(0)} ms, four levels ${four.toFixed(0)} ms`)
  assert.ok(one < 5000, `${one} ms`)
  assert.ok(four < 60000, `${four} ms`)
})

test.run()
