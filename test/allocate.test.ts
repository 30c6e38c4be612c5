import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type Allocation,
  type AllocationMethod,
  type AllocationOptions,
  allocate,
  blockCost,
  breakEvenRank,
  budgetOf,
  costOfRanks,
  denseParametersOf,
  type FactorStorage,
  levelBudgets,
  type ProjectionShape,
  type Rank,
} from '#lib/allocate.js'
import { FlrcError } from '#lib/errors.js'
import { llamaLike, seeded, spectraOf, type TestModel, tinyModel } from './support/allocation.js'

const methods: AllocationMethod[] = ['uniform', 'fisher', 'energy', 'asvd', 'curve']
const storages: FactorStorage[] = ['pivoted', 'plain']

/** `asvd` has one level. */
const budgetsFor = (method: AllocationMethod, all: number[][]) =>
  method === 'asvd' ? all.filter((budgets) => budgets.length === 1) : all

function failure(run: () => unknown, code: string): FlrcError {
  try {
    run()
  } catch (error) {
    assert.instance(error, FlrcError, String(error))
    assert.is((error as FlrcError).code, code, (error as FlrcError).message)
    return error as FlrcError
  }
  throw new Error(`no ${code} was thrown`)
}

function column(allocation: Allocation, p: number): Rank[] {
  return allocation.levels.map((level) => level[p] as Rank)
}

/** What holds of every allocation. */
function checkInvariants(
  model: TestModel,
  options: AllocationOptions,
  allocation: Allocation,
  label: string,
): void {
  const { projections, curves } = model
  const { storage, budgets, rankFloor = 1, rankMultiple = 1, allowDense = true } = options
  assert.is(allocation.levels.length, budgets.length, label)
  assert.equal(allocation.budgets, budgetOf(projections, allocation.levels, storage), label)
  assert.is(allocation.denseParameters, denseParametersOf(projections), label)
  assert.ok(
    Math.abs(allocation.storedParameters - (allocation.budgets[0] as number) * allocation.denseParameters) <
      1e-3,
  )
  for (const [level, budget] of budgets.entries()) {
    const realised = allocation.budgets[level] as number
    assert.ok(realised <= budget + 1e-9, `${label}: level ${level} has ${realised} of ${budget}`)
    if (level > 0) assert.ok(realised <= (allocation.budgets[level - 1] as number), `${label}: budgets fall`)
    const loss = projections.reduce((sum, _, p) => {
      const rank = allocation.levels[level]?.[p] as Rank
      return sum + (rank === 'dense' ? 0 : (curves[p]?.[rank] as number))
    }, 0)
    assert.is(allocation.estimatedLoss?.[level], loss, label)
  }
  for (const [p, { rows, cols, name }] of projections.entries()) {
    const ranks = column(allocation, p)
    const full = Math.min(rows, cols)
    if (ranks.includes('dense')) {
      assert.ok(allowDense, `${label}: ${name} may not be dense`)
      assert.ok(
        ranks.every((rank) => rank === 'dense'),
        `${label}: ${name} is dense on all levels or none`,
      )
      continue
    }
    const breakEven = Math.max(1, breakEvenRank(rows, cols, storage))
    const floor = Math.min(breakEven, rankFloor < 1 ? Math.max(1, Math.ceil(rankFloor * full)) : rankFloor)
    let above = full
    for (const rank of ranks as number[]) {
      assert.ok(
        Number.isInteger(rank) && rank >= floor && rank <= above,
        `${label}: ${name} has ranks ${ranks}`,
      )
      assert.ok(
        rank % rankMultiple === 0 || rank === full || rank === breakEven,
        `${label}: ${name} has rank ${rank}`,
      )
      above = rank
    }
  }
}

test('cost of a rank: plain r (m + n), pivoted r (m + n - r)', () => {
  const shape = { rows: 6, cols: 10 }
  assert.is(blockCost(shape, 3, 'plain'), 48)
  assert.is(blockCost(shape, 3, 'pivoted'), 39)
  assert.is(blockCost(shape, 6, 'pivoted'), 60, 'full rank costs m n')
  assert.is(blockCost(shape, 0, 'pivoted'), 0)
})

test('levels of a projection cost the sum of their blocks', () => {
  const shape = { rows: 6, cols: 10 }
  assert.equal(costOfRanks(shape, [5, 3, 3], 'pivoted'), [39 + 2 * 14, 39, 39])
  assert.equal(costOfRanks(shape, [5, 3, 1], 'pivoted'), [15 + 28 + 28, 15 + 28, 15])
  assert.equal(costOfRanks(shape, [5, 3, 1], 'plain'), [80, 48, 16])
  assert.equal(costOfRanks(shape, ['dense', 'dense'], 'pivoted'), [60, 60])
  const projections = [shape, { rows: 2, cols: 5 }]
  assert.equal(
    budgetOf(
      projections,
      [
        [5, 'dense'],
        [3, 'dense'],
      ],
      'pivoted',
    ),
    [77 / 70, 49 / 70],
  )
})

test('break-even rank', () => {
  assert.is(breakEvenRank(6, 10), 3)
  assert.is(breakEvenRank(576, 576), 288)
  assert.is(breakEvenRank(6, 10, 'pivoted'), 6)
})

test('level budgets start with keep, given or not', () => {
  assert.equal(levelBudgets(0.8), [0.8])
  assert.equal(levelBudgets(0.9, [0.9, 0.8]), [0.9, 0.8])
  assert.equal(levelBudgets(0.9, [0.8, 0.7]), [0.9, 0.8, 0.7])
  for (const [keep, levels] of [
    [0.8, [0.9, 0.7]],
    [0.9, [0.7, 0.8]],
    [0.9, [0.8, 0.8]],
    [0.9, [0.8, 0]],
    [0.9, [Number.NaN]],
    [0, []],
    [1.1, []],
    [Number.NaN, []],
  ] as [number, number[]][]) {
    failure(() => levelBudgets(keep, levels), 'E_USAGE')
  }
})

test('every method stays within every budget and comes within .002 of keep', () => {
  const model = llamaLike(4, 96, 48, 256, 3)
  for (const method of methods) {
    for (const storage of storages) {
      const one = [[0.95], [0.8], [0.6], [0.3]]
      const several = [
        [0.9, 0.8, 0.7],
        [0.95, 0.9, 0.8, 0.7],
        [0.6, 0.2],
      ]
      for (const budgets of budgetsFor(method, [...one, ...several])) {
        const options: AllocationOptions = { method, storage, budgets, ...model }
        const label = `${method} ${storage} ${budgets}`
        const allocation = allocate(model.projections, options)
        checkInvariants(model, options, allocation, label)
        for (const [level, budget] of budgets.entries()) {
          const short = budget - (allocation.budgets[level] as number)
          assert.ok(short <= 0.002, `${label}: level ${level} is ${short} short`)
        }
      }
    }
  }
})

test('budgets may be shares of a dense model that is more than its projections', () => {
  const model = llamaLike(4, 96, 48, 256, 3)
  const left = denseParametersOf(model.projections)
  const denseParameters = left / 0.8
  for (const method of methods) {
    for (const storage of storages) {
      for (const budgets of budgetsFor(method, [[0.6], [0.6, 0.4], [0.9, 0.4]])) {
        const options: AllocationOptions = { method, storage, ...model, budgets, denseParameters }
        const got = allocate(model.projections, options)
        // More than there is left is all of it.
        const shares = budgets.map((budget) => Math.min(1, budget / 0.8))
        const expected = allocate(model.projections, { method, storage, ...model, budgets: shares })
        const label = `${method} ${storage} ${budgets}`
        assert.equal(got.levels, expected.levels, label)
        assert.is(got.storedParameters, expected.storedParameters, label)
        assert.is(got.denseParameters, denseParameters)
        const of = (budget: number) => Math.round(budget * denseParameters)
        assert.equal(
          got.budgets.map(of),
          expected.budgets.map((budget) => Math.round(budget * left)),
          label,
        )
      }
      const options: AllocationOptions = { method, storage, ...model, budgets: [0.85], denseParameters }
      const whole = allocate(model.projections, options)
      assert.ok(whole.levels[0]?.every((rank) => rank === 'dense'))
      assert.ok(Math.abs((whole.budgets[0] ?? 0) - 0.8) < 1e-12)
    }
  }
})

test('whatever the shapes and options, the result is well-formed or the error says what would do', () => {
  const random = seeded(11)
  const pick = <T>(values: readonly T[]) => values[Math.floor(random() * values.length)] as T
  let refused = 0
  let done = 0
  for (let round = 0; round < 400; round++) {
    const model = tinyModel(1 + Math.floor(random() * 6), pick([3, 8, 40]), round)
    if (round % 5 === 0) {
      model.projections.push({ name: 'row', kind: 'q_proj', rows: 1, cols: 9 })
      model.curves.push(Float64Array.of(2, 0))
      model.scores = Float64Array.from(model.projections, () => pick([0, 1e-30, 1, 1e30]))
      Object.assign(model, spectraOf(model.projections, random))
    }
    const keep = 0.05 + 0.95 * random()
    const method = pick(methods)
    const options: AllocationOptions = {
      method,
      storage: pick(storages),
      budgets: pick(budgetsFor(method, [[keep], [keep, keep * 0.8], [keep, keep * 0.9, keep * 0.5]])),
      rankFloor: pick([0, 1, 2, 0.3]),
      rankMultiple: pick([1, 1, 2, 8]),
      allowDense: pick([true, false]),
      levelWeights: undefined,
      power: pick([undefined, 0, 0.5, 2]),
      ...model,
    }
    const label = `round ${round}: ${options.method} ${options.storage} ${options.budgets}`
    try {
      checkInvariants(model, options, allocate(model.projections, options), label)
      done++
    } catch (error) {
      if (!(error instanceof FlrcError)) throw error
      assert.is(error.code, 'E_USAGE', `${label}: ${error.message}`)
      const smallest = Number(/at least ([\d.e-]+);/.exec(error.message)?.[1])
      assert.ok(
        smallest > (options.budgets[options.budgets.length - 1] as number),
        `${label}: ${error.message}`,
      )
      if (smallest <= 1) {
        const enough = { ...options, budgets: [smallest] }
        checkInvariants(model, enough, allocate(model.projections, enough), `${label}, then ${smallest}`)
      }
      refused++
    }
  }
  assert.ok(done > 100 && refused > 20, `${done} done, ${refused} refused`)
})

test('keep 1 leaves everything dense, or at full rank where that is not allowed', () => {
  const model = tinyModel(4, 8, 5)
  for (const method of methods) {
    for (const storage of storages) {
      const dense = allocate(model.projections, { method, storage, budgets: [1], ...model })
      assert.equal(dense.levels, [model.projections.map(() => 'dense')])
      assert.equal(dense.budgets, [1])
      assert.equal(dense.estimatedLoss, [0])
    }
    const options: AllocationOptions = { method, storage: 'pivoted', budgets: [1], allowDense: false, ...model }
    const full = allocate(model.projections, { ...options, rankMultiple: 8 })
    if (method !== 'curve') {
      assert.equal(full.levels, [model.projections.map(({ rows, cols }) => Math.min(rows, cols))], method)
      assert.equal(full.budgets, [1])
    }
    assert.equal(full.estimatedLoss, [0])
  }
})

test('a keep that the rank floor does not allow names the smallest that it does', () => {
  const projections: ProjectionShape[] = [{ name: 'q', kind: 'q_proj', rows: 10, cols: 10 }]
  const options: AllocationOptions = { method: 'uniform', storage: 'pivoted', budgets: [0.2], rankFloor: 4 }
  const { message } = failure(() => allocate(projections, options), 'E_USAGE')
  assert.match(message, 'keep 0.2')
  assert.match(message, '0.64')
  assert.equal(allocate(projections, { ...options, budgets: [0.64] }).levels, [[4]])
  const levels = failure(() => allocate(projections, { ...options, budgets: [0.9, 0.5] }), 'E_USAGE')
  assert.match(levels.message, 'the lowest level 0.5')
})

test('wrong options are E_USAGE', () => {
  const model = tinyModel(2, 8, 1)
  const good: AllocationOptions = { method: 'curve', storage: 'pivoted', budgets: [0.8], ...model }
  const wrong: Partial<AllocationOptions>[] = [
    { budgets: [] },
    { budgets: [0] },
    { budgets: [1.5] },
    { budgets: [Number.NaN] },
    { budgets: [0.5, 0.6] },
    { budgets: [0.5, 0.5] },
    { rankFloor: -1 },
    { rankFloor: 1.5 },
    { rankFloor: Number.NaN },
    { rankMultiple: 0 },
    { rankMultiple: 2.5 },
    { levelWeights: [1, 1] },
    { levelWeights: [0] },
    { levelWeights: [-1] },
    { curves: undefined },
    { curves: model.curves.slice(1) },
    { curves: [new Float64Array(1), model.curves[1] as Float64Array] },
    { curves: [new Float64Array(99), model.curves[1] as Float64Array] },
    { method: 'fisher', scores: undefined },
    { method: 'fisher', scores: [1] },
    { method: 'fisher', power: -1 },
    { method: 'fisher', power: Number.NaN },
    { method: 'energy', singular: undefined },
    { method: 'energy', singular: model.singular.map((values) => values.slice(1)) },
    { method: 'asvd', sensitivity: undefined },
    { method: 'asvd', sensitivity: model.sensitivity.map((losses) => losses.slice(1)) },
    { method: 'asvd', budgets: [0.8, 0.6] },
    { method: 'best' as AllocationMethod },
  ]
  for (const change of wrong) failure(() => allocate(model.projections, { ...good, ...change }), 'E_USAGE')
  failure(() => allocate([], { ...good, curves: [] }), 'E_USAGE')
})

test('scores and curves that are no numbers are E_NUMERIC and name the projection', () => {
  const model = tinyModel(2, 8, 1)
  for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
    const curves = model.curves.map((curve) => curve.slice())
    ;(curves[1] as Float64Array)[1] = value
    const error = failure(
      () => allocate(model.projections, { method: 'curve', storage: 'plain', budgets: [0.8], curves }),
      'E_NUMERIC',
    )
    assert.is(error.tensor, 'p1')
    const scores = [1, value]
    failure(
      () => allocate(model.projections, { method: 'fisher', storage: 'plain', budgets: [0.8], scores }),
      'E_NUMERIC',
    )
  }
})

test('uniform: the same share of every projection, to within a rank', () => {
  const { projections } = llamaLike(3, 96, 48, 256, 1)
  for (const storage of storages) {
    for (const keep of [0.9, 0.5, 0.2]) {
      const { levels } = allocate(projections, { method: 'uniform', storage, budgets: [keep] })
      for (const [p, shape] of projections.entries()) {
        const rank = levels[0]?.[p] as number
        const size = shape.rows * shape.cols
        assert.ok(blockCost(shape, rank - 1, storage) < keep * size, `${shape.name} has rank ${rank}`)
        assert.ok(blockCost(shape, rank + 1, storage) > keep * size, `${shape.name} has rank ${rank}`)
      }
    }
  }
})

test('uniform: equal projections differ by at most one step, spread over the layers', () => {
  const { projections } = llamaLike(12, 64, 64, 64, 1)
  const { levels } = allocate(projections, { method: 'uniform', storage: 'plain', budgets: [0.81] })
  const ranks = levels[0] as number[]
  const high = ranks.map((rank) => rank - Math.min(...ranks))
  assert.ok(high.every((step) => step <= 1))
  const count = (part: number[]) => part.reduce((sum, step) => sum + step, 0)
  const [front, back] = [count(high.slice(0, 42)), count(high.slice(42))]
  assert.ok(front + back > 0, 'the remainder was dealt out')
  assert.ok(Math.abs(front - back) <= 3, `${front} in the first half, ${back} in the second`)
})

test('fisher: ranks are in proportion to score^power', () => {
  const projections = Array.from({ length: 4 }, (_, i) => ({
    name: `p${i}`,
    kind: 'q_proj',
    rows: 200,
    cols: 200,
  }))
  const scores = [1, 2, 4, 5]
  const proportion = (power: number) => {
    const { levels } = allocate(projections, {
      method: 'fisher',
      storage: 'plain',
      budgets: [0.4],
      scores,
      power,
    })
    return (levels[0] as number[]).map((rank) => rank / (levels[0]?.[0] as number))
  }
  for (const [i, expected] of [1, 2, 4, 5].entries()) {
    assert.ok(Math.abs((proportion(1)[i] as number) / expected - 1) < 0.1)
    assert.ok(Math.abs((proportion(0.5)[i] as number) / Math.sqrt(expected) - 1) < 0.1)
    assert.ok(Math.abs((proportion(0)[i] as number) - 1) < 0.1)
  }
})

test('fisher: scores count by proportion only, however large or small', () => {
  const model = llamaLike(2, 64, 32, 128, 9)
  const of = (scale: number) =>
    allocate(model.projections, {
      method: 'fisher',
      storage: 'pivoted',
      budgets: [0.8, 0.6],
      scores: model.scores.map((score) => score * scale),
    }).levels
  assert.equal(of(2 ** 300), of(1))
  assert.equal(of(2 ** -300), of(1))
})

test('fisher: what reaches break-even is left dense, and the rest is dealt out again', () => {
  const projections = Array.from({ length: 3 }, (_, i) => ({
    name: `p${i}`,
    kind: 'q_proj',
    rows: 100,
    cols: 100,
  }))
  const options: AllocationOptions = { method: 'fisher', storage: 'plain', budgets: [0.8], scores: [100, 1, 1] }
  const free = allocate(projections, options)
  assert.equal(free.levels, [['dense', 35, 35]])
  const bound = allocate(projections, { ...options, allowDense: false })
  assert.equal(bound.levels, [[50, 35, 35]])
  const pivoted = allocate(projections, { ...options, storage: 'pivoted' })
  assert.is(pivoted.levels[0]?.[0], 'dense')
  assert.ok((pivoted.levels[0]?.[1] as number) > 35)
})

test('fisher: without any score there is nothing to go by but the shapes', () => {
  const { projections } = llamaLike(1, 64, 32, 128, 1)
  const { levels, budgets } = allocate(projections, {
    method: 'fisher',
    storage: 'plain',
    budgets: [0.5],
    scores: new Float64Array(7),
  })
  assert.ok((budgets[0] as number) > 0.498)
  assert.ok((levels[0] as number[]).every((rank) => rank > 10))
})

test('rank floor, multiple and the dense option hold in every method', () => {
  const model = llamaLike(2, 96, 48, 256, 4)
  for (const method of methods) {
    for (const storage of storages) {
      for (const budgets of budgetsFor(method, [[0.8], [0.8, 0.6]])) {
        const options: AllocationOptions = {
          ...{ method, storage, budgets, ...model },
          ...{ rankFloor: 0.1, rankMultiple: 8, allowDense: false },
        }
        const allocation = allocate(model.projections, options)
        checkInvariants(model, options, allocation, `${method} ${storage} ${budgets}`)
        assert.ok(allocation.levels.flat().every((rank) => rank !== 'dense' && rank % 8 === 0))
      }
    }
  }
})

test('the same input gives the same ranks', () => {
  const model = llamaLike(2, 64, 32, 128, 6)
  for (const method of methods) {
    const [budgets = []] = budgetsFor(method, [[0.9, 0.7], [0.8]])
    const options: AllocationOptions = { method, storage: 'pivoted', budgets, ...model }
    assert.equal(allocate(model.projections, options), allocate(model.projections, options))
  }
})

test.run()
