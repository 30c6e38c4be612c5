import { blockCost, breakEvenRank, denseParametersOf } from './costs.js'
import type { Item, Problem } from './problem.js'
import type { FactorStorage, Rank } from './types.js'

/** What a projection has on the levels done so far; the lowest level is done first. */
interface Holding {
  item: Item
  rank: Rank
  /** Parameters of its blocks, m n where dense. */
  spent: number
}

/** What one level may give a projection. */
interface Offer {
  holding: Holding
  /** Ranks to choose from, rising; the first is the least this level can do with. */
  ranks: Int32Array
  /** A wish for this much rank is granted by leaving the projection dense. */
  denseFrom: number
  cost(rank: number): number
}

/** The real-valued rank a projection should have for the common factor c; never falls as c grows. */
type Wish = (holding: Holding, p: number, c: number) => number

/** Share of the model that is not worth dealing out a second time: small projections would get it all. */
const slackShare = 1e-3

/** 0 <= value < 1, spread evenly over successive numbers: ties are dealt to layers far from each other. */
const spread = (p: number) => (p * 0.6180339887498949) % 1

function offerOf(holding: Holding, storage: FactorStorage, lowest: boolean, mayGoDense: boolean): Offer {
  const { item, spent } = holding
  const below = holding.rank === 'dense' ? 0 : holding.rank
  const cost = (rank: number) => spent + blockCost(item, rank - below, storage)
  const fits = (rank: number, i: number) =>
    rank >= below && (lowest ? i < item.lowestCount : rank === below || cost(rank) <= item.size)
  return {
    holding,
    ranks: item.ranks.filter(fits),
    denseFrom:
      lowest && mayGoDense && item.mayBeDense ? breakEvenRank(item.rows, item.cols, storage) : Infinity,
    cost,
  }
}

/** The largest factor in [0, highest] at which the rising `total` stays within the limit. */
function largestFactor(total: (c: number) => number, limit: number, highest: number): number {
  if (total(highest) <= limit) return highest
  let low = 0
  let high = highest
  for (let i = 0; i < 100; i++) {
    const middle = (low + high) / 2
    if (total(middle) <= limit) low = middle
    else high = middle
  }
  return low
}

/**
 * Rounds every wish down to an allowed rank, then deals out what is left of the limit: a step to each, those
 * first that rounding cost most, and again while more is left than `slack`.
 */
function grant(offers: readonly Offer[], wishes: readonly number[], limit: number, slack: number): void {
  let left = limit
  const places = offers.map((offer, i) => {
    const wish = wishes[i] as number
    let index = 0
    while (index + 1 < offer.ranks.length && (offer.ranks[index + 1] as number) <= wish) index++
    if (wish >= offer.denseFrom) index = offer.ranks.length
    const place = { offer, index, short: wish - rankAt(offer, index), tie: spread(i) }
    left -= costAt(offer, index)
    return place
  })
  places.sort((a, b) => b.short - a.short || a.tie - b.tie)
  let dealt = true
  for (let pass = 0; dealt && (pass === 0 || left > slack); pass++) {
    dealt = false
    for (const place of places) {
      const { offer, index } = place
      const last = offer.denseFrom === Infinity ? offer.ranks.length - 1 : offer.ranks.length
      if (index >= last) continue
      const step = costAt(offer, index + 1) - costAt(offer, index)
      if (step > left) continue
      left -= step
      place.index++
      dealt = true
    }
  }
  for (const { offer, index } of places) {
    offer.holding.spent = costAt(offer, index)
    offer.holding.rank = index === offer.ranks.length ? 'dense' : rankAt(offer, index)
  }
}

/** An index one past the ranks stands for dense. */
function rankAt(offer: Offer, index: number): number {
  return offer.ranks[index] ?? offer.denseFrom
}

function costAt(offer: Offer, index: number): number {
  const rank = offer.ranks[index]
  return rank === undefined ? offer.holding.item.size : offer.cost(rank)
}

function allocateByWish(problem: Problem, wish: Wish, highest: number, mayGoDense: boolean): Rank[][] {
  const { storage, limits } = problem
  const holdings = problem.items.map((item): Holding => {
    // A projection of one row or column costs more at rank 1 than as it is.
    const neverPays = item.mayBeDense && blockCost(item, item.ranks[0] as number, storage) > item.size
    return neverPays ? { item, rank: 'dense', spent: item.size } : { item, rank: 0, spent: 0 }
  })
  const levels: Rank[][] = limits.map(() => [])
  for (let level = limits.length - 1; level >= 0; level--) {
    let limit = limits[level] as number
    const offers: Offer[] = []
    const order: number[] = []
    for (const [p, holding] of holdings.entries()) {
      if (holding.rank === 'dense') {
        limit -= holding.spent
        continue
      }
      offers.push(offerOf(holding, storage, level === limits.length - 1, mayGoDense))
      order.push(p)
    }
    const wishAt = (i: number, c: number) => wish((offers[i] as Offer).holding, order[i] as number, c)
    const total = (c: number) =>
      offers.reduce((sum, { holding, ranks, denseFrom, cost }, i) => {
        const rank = wishAt(i, c)
        if (rank >= denseFrom) return sum + holding.item.size
        return sum + cost(Math.max(ranks[0] as number, Math.min(rank, ranks[ranks.length - 1] as number)))
      }, 0)
    const factor = largestFactor(total, limit, highest)
    grant(
      offers,
      offers.map((_, i) => wishAt(i, factor)),
      limit,
      slackShare * denseParametersOf(problem.items),
    )
    levels[level] = holdings.map((holding) => holding.rank)
  }
  return levels
}

/** Rank whose blocks cost `parameters` on top of what the holding has: the root of s (m + n - s) = parameters. */
function rankFor(holding: Holding, parameters: number, storage: FactorStorage): number {
  const below = holding.rank === 'dense' ? 0 : holding.rank
  if (parameters <= 0) return below
  const { span } = holding.item
  if (storage === 'plain') return below + parameters / span
  return below + (span - Math.sqrt(Math.max(0, span * span - 4 * parameters))) / 2
}

/** The baseline: every projection keeps the same share of its parameters; none is left dense. */
export function allocateUniform(problem: Problem): Rank[][] {
  const wish: Wish = (holding, _, c) => rankFor(holding, c * holding.item.size - holding.spent, problem.storage)
  return allocateByWish(problem, wish, 1, false)
}

/**
 * FLRC's allocation (EMNLP 2025, arXiv 2510.09332, in our reading): rank proportional to score^power, capped
 * at break-even, where the projection is left dense; what the capped ones do not use goes to the others.
 */
export function allocateFisher(problem: Problem, scores: ArrayLike<number>, power: number): Rank[][] {
  let top = 0
  for (let p = 0; p < scores.length; p++) top = Math.max(top, scores[p] as number)
  const shares = problem.items.map((_, p) => (top > 0 ? ((scores[p] as number) / top) ** power : 1))
  const smallest = Math.min(...shares.filter((share) => share > 0))
  const largestRank = Math.max(...problem.items.map((item) => Math.min(item.rows, item.cols)))
  const wish: Wish = (_, p, c) => c * (shares[p] as number)
  return allocateByWish(problem, wish, largestRank / smallest, true)
}
