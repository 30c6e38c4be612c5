import type { Losses, State } from './chains.js'
import { lossOf } from './chains.js'
import { blockCost } from './costs.js'
import { exchange } from './exchange.js'
import { spendRest } from './improve.js'
import type { Item, Problem } from './problem.js'
import { leastCost } from './problem.js'

interface Point {
  cost: number
  loss: number
  /** Index in item.ranks; -1 is dense. */
  index: number
}

interface Segment {
  p: number
  to: Point
  cost: number
  gain: number
}

export interface Solution {
  state: State
  loss: number
  /** No allocation within the budgets loses less. */
  lowerBound: number
}

/**
 * Lower convex hull of a projection's points (cost(r), E(r)) with the dense point (m n, 0), from its cheapest
 * point to its least loss (Andrew's monotone chain). E need not be monotone: points that cost more and lose
 * no less are never on it.
 */
export function lowerHull(item: Item, loss: Float64Array, storage: Problem['storage']): Point[] {
  const points: Point[] = []
  for (let index = 0; index < item.lowestCount; index++) {
    points.push({
      cost: blockCost(item, item.ranks[index] as number, storage),
      loss: loss[index] as number,
      index,
    })
  }
  if (item.mayBeDense) points.push({ cost: item.size, loss: 0, index: -1 })
  points.sort((a, b) => a.cost - b.cost || a.loss - b.loss || a.index - b.index)
  const hull: Point[] = []
  for (const point of points) {
    if (hull.length > 0 && point.loss >= (hull[hull.length - 1] as Point).loss) continue
    while (hull.length > 1) {
      const [a, b] = hull.slice(-2) as [Point, Point]
      if ((b.loss - a.loss) * (point.cost - b.cost) < (point.loss - b.loss) * (b.cost - a.cost)) break
      hull.pop()
    }
    hull.push(point)
  }
  return hull
}

/**
 * One level: minimises the sum of E_p(r_p) under the budget by merging the segments of all hulls, steepest
 * first. That solves the linear relaxation, so the result is off the optimum by less than the gain of the
 * one segment at which the budget first ran out; what is left is then spent on best single improvements.
 */
export function allocateByHull(problem: Problem, losses: Losses): Solution & { price: number } {
  const hulls = problem.items.map((item, p) => lowerHull(item, losses[p] as Float64Array, problem.storage))
  const at = hulls.map((hull) => hull[0] as Point)
  let left =
    (problem.limits[0] as number) -
    problem.items.reduce((sum, item) => sum + leastCost(item, problem.storage), 0)
  const segments: Segment[] = []
  for (const [p, hull] of hulls.entries()) {
    for (let i = 1; i < hull.length; i++) {
      const from = hull[i - 1] as Point
      const to = hull[i] as Point
      segments.push({ p, to, cost: to.cost - from.cost, gain: from.loss - to.loss })
    }
  }
  segments.sort((a, b) => b.gain / b.cost - a.gain / a.cost || a.p - b.p || a.to.cost - b.to.cost)
  let lowerBound = at.reduce((sum, point) => sum + point.loss, 0)
  let price = 0
  const closed = new Uint8Array(hulls.length)
  for (const { p, to, cost, gain } of segments) {
    if (price === 0) {
      lowerBound -= gain * Math.min(1, left / cost)
      if (cost > left) price = gain / cost
    }
    if (closed[p]) continue
    if (cost > left) {
      closed[p] = 1
      continue
    }
    left -= cost
    at[p] = to
  }
  const state: State = {
    chain: Int32Array.from(at, (point) => Math.max(0, point.index)),
    dense: Uint8Array.from(at, (point) => (point.index < 0 ? 1 : 0)),
  }
  spendRest(problem, losses, state, [price])
  const better = exchange(problem, losses, state, [price], lowerBound)
  return { state: better, loss: lossOf(problem, losses, better), lowerBound, price }
}
