import type { Losses, State } from './chains.js'
import { costOf, lossOf } from './chains.js'
import { ChainSolver } from './envelope.js'
import { exchange } from './exchange.js'
import type { Solution } from './hull.js'
import { allocateByHull } from './hull.js'
import { spendRest } from './improve.js'
import type { Item, Problem } from './problem.js'
import { leastCost } from './problem.js'

/** More ranks than this per projection are thinned out while prices are searched for. */
const searchRanks = 96
const maximumRounds = 12

/** The least of loss + priced cost, which is all that the budgets leave of the problem at given prices. */
interface Relaxed {
  state: State
  /** By level. */
  cost: Float64Array
  /** Per projection, how much less a parameter it takes dense than as a chain; 0 where that was not asked. */
  denseSaves: Float64Array
  /** What no allocation within the budgets can lose less than; only where dense was free to choose. */
  dual: number
}

/** One problem with the scratch to solve it again and again. */
interface Arena {
  problem: Problem
  losses: Losses
  solver: ChainSolver
}

function arenaOf(problem: Problem, losses: Losses): Arena {
  const most = Math.max(...problem.items.map((item) => item.ranks.length))
  return { problem, losses, solver: new ChainSolver(most, problem.limits.length) }
}

/** The same problem with at most about `searchRanks` evenly spaced ranks per projection. */
function thinned(problem: Problem, losses: Losses): Arena {
  const keep = problem.items.map((item) => {
    const step = Math.ceil(item.ranks.length / searchRanks)
    return (_: number, i: number) => i % step === 0 || i === item.ranks.length - 1
  })
  const items = problem.items.map((item, p): Item => {
    const chosen = keep[p] as (rank: number, i: number) => boolean
    const ranks = item.ranks.filter(chosen)
    const last = item.ranks[item.lowestCount - 1] as number
    return { ...item, ranks, lowestCount: ranks.filter((rank) => rank <= last).length }
  })
  const thinLosses = losses.map((loss, p) => loss.filter(keep[p] as (value: number, i: number) => boolean))
  return arenaOf({ ...problem, items }, thinLosses)
}

function blockPricesOf(prices: Float64Array): Float64Array {
  const sums = new Float64Array(prices.length)
  let sum = 0
  for (let level = 0; level < prices.length; level++) {
    sum += prices[level] as number
    sums[level] = sum
  }
  return sums
}

/** @param fixed what stays dense; without it, whatever is cheaper so */
function relax({ problem, losses, solver }: Arena, prices: Float64Array, fixed?: Uint8Array): Relaxed {
  const { items, limits } = problem
  const count = limits.length
  const dense = fixed ?? new Uint8Array(items.length)
  const state: State = { chain: new Int32Array(items.length * count), dense }
  const denseSaves = new Float64Array(items.length)
  const blockPrices = blockPricesOf(prices)
  const densePrice = blockPrices[count - 1] as number
  let dual = 0
  for (const [level, limit] of limits.entries()) dual -= (prices[level] as number) * limit
  for (const [p, item] of items.entries()) {
    if (fixed?.[p]) continue
    const value = solver.solve(item, losses[p] as Float64Array, problem, blockPrices, state.chain, p * count)
    const asDense = item.mayBeDense ? densePrice * item.size : Number.POSITIVE_INFINITY
    dual += Math.min(value, asDense)
    if (fixed === undefined && asDense <= value) {
      dense[p] = 1
      denseSaves[p] = (value - asDense) / item.size
    }
  }
  return { state, cost: costOf(problem, state), denseSaves, dual }
}

/**
 * Finds prices at which every level just keeps its budget, one level at a time, in rounds with ever narrower
 * brackets (coordinate ascent on the Lagrangian dual, which is concave).
 */
function searchPrices(
  arena: Arena,
  start: Float64Array,
  brackets: readonly number[],
  dense?: Uint8Array,
): Float64Array {
  const { limits } = arena.problem
  // A level that others keep within its budget is all but free.
  const least = Math.max(...start) * 1e-9
  const prices = start.map((price) => Math.max(price, least))
  for (const bracket of brackets) {
    for (let level = limits.length - 1; level >= 0; level--) {
      const limit = limits[level] as number
      const within = (price: number) => {
        prices[level] = price
        return (relax(arena, prices, dense).cost[level] as number) <= limit
      }
      let low = prices[level] as number
      let high = low
      let factor = bracket
      if (within(low)) {
        do {
          high = low
          low = Math.max(high / factor, least)
          factor *= 2
        } while (high > least && within(low))
      } else {
        do {
          low = high
          high = low * factor
          factor *= 2
        } while (!within(high))
      }
      for (let i = 0; i < 5; i++) {
        const middle = Math.sqrt(low * high)
        if (within(middle)) high = middle
        else low = middle
      }
      prices[level] = high
    }
  }
  return prices
}

/** Raises the prices of the levels that are over their budgets until none is. */
function makeFeasible(arena: Arena, dense: Uint8Array, prices: Float64Array): Relaxed {
  for (let step = 1e-4; ; step = Math.min(step * 2, 1)) {
    const relaxed = relax(arena, prices, dense)
    let over = false
    for (const [level, limit] of arena.problem.limits.entries()) {
      if ((relaxed.cost[level] as number) <= limit) continue
      over = true
      prices[level] = (prices[level] as number) * (1 + step)
    }
    if (!over) return relaxed
  }
}

/** What is cheaper dense, the most saving first, as far as the lowest level can bear. */
function denseSetOf(problem: Problem, { state, denseSaves }: Relaxed): Uint8Array {
  const order = [...problem.items.keys()].filter((p) => state.dense[p])
  order.sort((a, b) => (denseSaves[b] as number) - (denseSaves[a] as number) || a - b)
  return affordable(problem, order)
}

/** Marks as many as the lowest level can bear beside the others' cheapest ranks. */
function affordable(problem: Problem, wanted: readonly number[]): Uint8Array {
  const { items, storage, limits } = problem
  const dense = new Uint8Array(items.length)
  let left = limits[limits.length - 1] as number
  for (const [p, item] of items.entries()) {
    const cost = leastCost(item, storage)
    left -= cost
    // Where even the least rank costs more than the dense projection, dense is the only choice.
    if (item.mayBeDense && cost >= item.size) dense[p] = 1
  }
  for (const p of wanted) {
    const item = items[p] as Item
    const more = item.size - leastCost(item, storage)
    if (dense[p] || more > left) continue
    left -= more
    dense[p] = 1
  }
  return dense
}

/** Prices to start from: those of each level on its own. */
function startPrices(problem: Problem, losses: Losses): Float64Array {
  return Float64Array.from(problem.limits, (limit, level) => {
    const price = allocateByHull({ ...problem, limits: [limit], weights: [1] }, losses).price
    return (problem.weights[level] as number) * Math.max(price, Number.MIN_VALUE * 1e50)
  })
}

/**
 * Several levels jointly: minimises sum over levels of w_l sum_p E_p(r_pl) with every level within its budget,
 * ranks falling from level to level, costs by blocks, and dense projections dense on all levels.
 *
 * Alternates: prices (Lagrange multipliers of the levels) with the dense set fixed, then the set that is
 * cheaper dense at these prices, until a set comes back; what is left is spent on single improvements; the
 * best allocation met is the result. The first prices are those of the dual, where dense is free to choose.
 */
export function allocateLevels(problem: Problem, losses: Losses): Solution {
  const full = arenaOf(problem, losses)
  const coarse = thinned(problem, losses)
  let prices = searchPrices(coarse, startPrices(problem, losses), [8, 3, 1.5])
  let best: { state: State; loss: number; prices: Float64Array } | undefined
  let lowerBound = Number.NEGATIVE_INFINITY
  const seen = new Set<string>()
  for (let round = 0; round < maximumRounds; round++) {
    const free = relax(full, prices)
    lowerBound = Math.max(lowerBound, free.dual)
    const dense = denseSetOf(problem, free)
    const key = dense.join('')
    if (seen.has(key)) break
    seen.add(key)
    prices = searchPrices(coarse, prices, [1.3], dense)
    prices = searchPrices(full, prices, [1.05], dense)
    const { state } = makeFeasible(full, dense, prices.slice())
    spendRest(problem, losses, state, prices)
    const loss = lossOf(problem, losses, state)
    if (best === undefined || loss < best.loss) best = { state, loss, prices }
  }
  if (best === undefined) throw new RangeError('unreachable: the first dense set is always new')
  const state = exchange(problem, losses, best.state, best.prices, lowerBound)
  return { state, loss: lossOf(problem, losses, state), lowerBound }
}
