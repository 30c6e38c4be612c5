import { blockCost, breakEvenRank } from './costs.js'
import type { Item, Problem } from './problem.js'
import type { FactorStorage, ProjectionShape, Rank } from './types.js'

/** Shares of its dense parameters that ASVD's search tries for every projection. */
export const sensitivityRatios: readonly number[] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

/** The largest rank, at least 1, that costs no more than this share of the dense projection. */
export function rankAtRatio(
  shape: Pick<ProjectionShape, 'rows' | 'cols'>,
  ratio: number,
  storage: FactorStorage,
): number {
  // A hair of tolerance: .3 of 10 parameters are 3, although 0.3 * 10 may be 2.999... in binary.
  const limit = ratio * shape.rows * shape.cols * (1 + 1e-12)
  const most = breakEvenRank(shape.rows, shape.cols, storage)
  let rank = 1
  while (rank < most && blockCost(shape, rank + 1, storage) <= limit) rank++
  return rank
}

/** What a projection may take; its costs rise from step to step. */
interface Step {
  /** Index in item.ranks; -1 is dense. */
  index: number
  cost: number
  /** As measured; -Infinity for the most a projection can have, Infinity below the grid. */
  loss: number
}

/** A projection's choice among its steps. */
interface Place {
  item: Item
  steps: Step[]
  at: number
  /** Where the last, partial step ended. */
  partial?: number
}

function stepsOf(item: Item, losses: Float64Array, storage: FactorStorage): Step[] {
  const costAt = (index: number) => blockCost(item, item.ranks[index] as number, storage)
  const steps: Step[] = []
  let nearest = Number.POSITIVE_INFINITY
  for (const [i, ratio] of sensitivityRatios.entries()) {
    const measured = rankAtRatio(item, ratio, storage)
    let index = 0
    while (index + 1 < item.lowestCount && (item.ranks[index + 1] as number) <= measured) index++
    const step = { index, cost: costAt(index), loss: losses[i] as number }
    const distance = Math.abs(measured - (item.ranks[index] as number))
    const last = steps[steps.length - 1]
    // Floors and multiples bring several ratios to one rank: the one measured nearest to it speaks for it.
    if (last?.index !== index) steps.push(step)
    else if (distance < nearest) steps[steps.length - 1] = step
    else continue
    nearest = distance
  }
  if (steps[0]?.index !== 0) steps.unshift({ index: 0, cost: costAt(0), loss: Number.POSITIVE_INFINITY })
  const top = item.mayBeDense
    ? { index: -1, cost: item.size, loss: Number.NEGATIVE_INFINITY }
    : { index: item.lowestCount - 1, cost: costAt(item.lowestCount - 1), loss: Number.NEGATIVE_INFINITY }
  return [...steps.filter(({ cost }) => cost < top.cost), top]
}

/** The cheapest step whose loss is within the threshold. */
function within(steps: readonly Step[], threshold: number): number {
  return steps.findIndex(({ loss }) => loss <= threshold)
}

/** The smallest of the measured losses that as a threshold keeps the cost within the limit. */
function smallestThreshold(places: readonly Place[], limit: number): number {
  const losses = [...new Set(places.flatMap(({ steps }) => steps.map(({ loss }) => loss)))].sort((a, b) =>
    a < b ? -1 : 1,
  )
  const costAt = (threshold: number) =>
    places.reduce((sum, { steps }) => sum + (steps[within(steps, threshold)] as Step).cost, 0)
  let low = 0
  let high = losses.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if (costAt(losses[middle] as number) <= limit) high = middle
    else low = middle + 1
  }
  return losses[low] as number
}

/** The step that a lower threshold would bring a projection to. */
function nextOf({ steps, at, partial }: Place): number {
  const { loss } = steps[at] as Step
  return partial === undefined ? steps.findIndex((step, i) => i > at && step.loss < loss) : -1
}

/** Raises a place to its next step, or as far towards it as `left` allows; returns what that costs. */
function raise(place: Place, left: number, storage: FactorStorage): number {
  const { item, steps } = place
  const from = steps[place.at] as Step
  const next = nextOf(place)
  const to = steps[next] as Step
  if (to.cost - from.cost <= left) {
    place.at = next
    return to.cost - from.cost
  }
  const end = to.index < 0 ? item.lowestCount : to.index
  let index = from.index
  const spent = (i: number) => blockCost(item, item.ranks[i] as number, storage) - from.cost
  while (index + 1 < end && spent(index + 1) <= left) index++
  place.partial = index
  return spent(index)
}

/**
 * ASVD's allocation (arXiv 2312.05821, its sensitivity-based truncation rank searching): every projection takes
 * the smallest ratio of the grid at which the text's loss, with it alone cut, is within one threshold for the
 * whole model, or stays dense; the threshold comes from a binary search for the budget.
 *
 * One threshold moves whole tenths of a projection, which leaves some of the budget. As published that is not
 * spent; here it goes, so that methods compare at equal size, to the steps a lower threshold would take next, the
 * most sensitive first, the last of them in part. A keep below the grid goes to ranks below it in the same way.
 *
 * @param losses per projection the loss with only it cut, at each of `sensitivityRatios`
 * @returns ranks of the one level
 */
export function allocateBySensitivity(problem: Problem, losses: readonly Float64Array[]): Rank[] {
  const { storage } = problem
  const limit = problem.limits[0] as number
  const places = problem.items.map((item, p): Place => {
    return { item, steps: stepsOf(item, losses[p] as Float64Array, storage), at: 0 }
  })
  const threshold = smallestThreshold(places, limit)
  let left = limit
  for (const place of places) {
    place.at = within(place.steps, threshold)
    left -= (place.steps[place.at] as Step).cost
  }
  for (;;) {
    const open = places.filter((place) => nextOf(place) >= 0)
    const [first, ...others] = open
    if (first === undefined) break
    const lossAt = ({ steps }: Place, i: number) => (steps[i] as Step).loss
    const moreSensitive = (a: Place, b: Place) => {
      const [now, next] = [lossAt(a, a.at), lossAt(a, nextOf(a))]
      const other = lossAt(b, b.at)
      return now > other || (now === other && next > lossAt(b, nextOf(b)))
    }
    const chosen = others.reduce((best, place) => (moreSensitive(place, best) ? place : best), first)
    left -= raise(chosen, left, storage)
  }
  return places.map(({ item, steps, at, partial }) => {
    const index = partial ?? (steps[at] as Step).index
    return index < 0 ? 'dense' : (item.ranks[index] as number)
  })
}
