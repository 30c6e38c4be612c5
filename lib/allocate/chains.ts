import { blockCost } from './costs.js'
import type { Item, Problem } from './problem.js'
import type { Rank } from './types.js'

/**
 * An allocation under construction: per projection the index of its rank in `item.ranks` at each level
 * [P x L], level 0 first, or dense on all levels.
 */
export interface State {
  /** chain[p * L + l] */
  chain: Int32Array
  dense: Uint8Array
}

/** E at the ranks a projection may take: losses[p][i] = E_p(items[p].ranks[i]). */
export type Losses = readonly Float64Array[]

export function lossesOf(problem: Problem, curves: readonly Float64Array[]): Losses {
  return problem.items.map((item, p) =>
    Float64Array.from(item.ranks, (rank) => (curves[p] as Float64Array)[rank] as number),
  )
}

/** Adds the cost of a chain to `sums` [L]. */
export function addChainCost(
  problem: Problem,
  item: Item,
  chain: Int32Array,
  at: number,
  sums: Float64Array,
): void {
  let below = 0
  let cost = 0
  for (let level = sums.length - 1; level >= 0; level--) {
    const rank = item.ranks[chain[at + level] as number] as number
    cost += blockCost(item, rank - below, problem.storage)
    below = rank
    sums[level] = (sums[level] as number) + cost
  }
}

/** Parameters that each level of the allocation reads. */
export function costOf(problem: Problem, state: State): Float64Array {
  const count = problem.limits.length
  const sums = new Float64Array(count)
  for (const [p, item] of problem.items.entries()) {
    if (state.dense[p]) {
      for (let level = 0; level < count; level++) sums[level] = (sums[level] as number) + item.size
    } else {
      addChainCost(problem, item, state.chain, p * count, sums)
    }
  }
  return sums
}

/** The weighted sum of losses that `curve` minimises. */
export function lossOf(problem: Problem, losses: Losses, state: State): number {
  const count = problem.limits.length
  let sum = 0
  for (const [p, loss] of losses.entries()) {
    if (state.dense[p]) continue
    for (let level = 0; level < count; level++) {
      sum += (problem.weights[level] as number) * (loss[state.chain[p * count + level] as number] as number)
    }
  }
  return sum
}

/** Ranks by level. */
export function ranksOf(problem: Problem, { chain, dense }: State): Rank[][] {
  const count = problem.limits.length
  return problem.limits.map((_, level) =>
    problem.items.map(({ ranks }, p) =>
      dense[p] ? 'dense' : (ranks[chain[p * count + level] as number] as number),
    ),
  )
}
