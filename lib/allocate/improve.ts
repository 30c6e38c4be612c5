import type { Losses, State } from './chains.js'
import { addChainCost, costOf } from './chains.js'
import { blockCost } from './costs.js'
import type { Item, Problem } from './problem.js'

/** A change of one projection: its rank index at `level` (and above where lower) rises to `index`. */
interface Move {
  /** -1: leave dense. */
  level: number
  index: number
  gain: number
  /** Gain less the price of what it costs; the least wasteful move has the highest. */
  worth: number
  /** Added cost by level. */
  cost: Float64Array
}

/**
 * Spends what an allocation leaves of its budgets on the best single changes, each of which lowers the loss:
 * raising one projection's rank at a level (and at the levels above, so that ranks still fall), or leaving it
 * dense. Changes `state`.
 *
 * @param prices loss per parameter of each level: the Lagrange multipliers the allocation was found with
 * @param except a projection to leave alone
 */
export function spendRest(
  problem: Problem,
  losses: Losses,
  state: State,
  prices: ArrayLike<number>,
  except = -1,
): void {
  const count = problem.limits.length
  const spent = costOf(problem, state)
  const left = Float64Array.from(problem.limits, (limit, level) => limit - (spent[level] as number))
  const look = (p: number) => (p === except ? undefined : bestMove(problem, losses, state, prices, left, p))
  let best = problem.items.map((_, p) => look(p))
  let fresh = true
  for (;;) {
    let chosen = -1
    for (let p = 0; p < best.length; p++) {
      let move = best[p]
      if (move !== undefined && !fits(move.cost, left)) {
        move = look(p)
        best[p] = move
      }
      if (move !== undefined && (chosen < 0 || move.worth > (best[chosen] as Move).worth)) chosen = p
    }
    const move = best[chosen]
    if (move === undefined) {
      // A move may lower the cost of a higher level and so make room for moves that did not fit before.
      if (fresh) return
      best = problem.items.map((_, p) => look(p))
      fresh = true
      continue
    }
    fresh = false
    for (let level = 0; level < count; level++)
      left[level] = (left[level] as number) - (move.cost[level] as number)
    if (move.level < 0) {
      state.dense[chosen] = 1
    } else {
      raise(state.chain, chosen * count, move)
    }
    best[chosen] = look(chosen)
  }
}

function fits(cost: Float64Array, left: Float64Array): boolean {
  for (let level = 0; level < cost.length; level++) {
    if ((cost[level] as number) > Math.max(0, left[level] as number)) return false
  }
  return true
}

function raise(chain: Int32Array, at: number, move: { level: number; index: number }): void {
  for (let level = 0; level <= move.level; level++) {
    chain[at + level] = Math.max(chain[at + level] as number, move.index)
  }
}

function bestMove(
  problem: Problem,
  losses: Losses,
  state: State,
  prices: ArrayLike<number>,
  left: Float64Array,
  p: number,
): Move | undefined {
  if (state.dense[p]) return undefined
  const count = problem.limits.length
  const item = problem.items[p] as Item
  const loss = losses[p] as Float64Array
  const chain = state.chain.subarray(p * count, (p + 1) * count)
  const now = new Float64Array(count)
  addChainCost(problem, item, chain, 0, now)
  const before = chainLoss(problem, loss, chain)
  const trial = new Int32Array(count)
  const cost = new Float64Array(count)
  let best: Move | undefined
  const consider = (level: number, index: number, after: number) => {
    const gain = before - after
    if (!(gain > 0) || !fits(cost, left)) return
    let worth = gain
    for (let l = 0; l < count; l++) worth -= (prices[l] as number) * (cost[l] as number)
    if (best === undefined || worth > best.worth) best = { level, index, gain, worth, cost: cost.slice() }
  }
  for (let level = 0; level < count; level++) {
    const end = level === count - 1 ? item.lowestCount : item.ranks.length
    const from = chain[level] as number
    const below = level === count - 1 ? 0 : (item.ranks[chain[level + 1] as number] as number)
    const block = blockCost(item, (item.ranks[from] as number) - below, problem.storage)
    // The lower levels stay, so this level's cost rises with the index: past what is left nothing fits.
    for (let index = from + 1; index < end; index++) {
      const rise = blockCost(item, (item.ranks[index] as number) - below, problem.storage) - block
      if (rise > (left[level] as number)) break
      trial.set(chain)
      raise(trial, 0, { level, index })
      cost.fill(0)
      addChainCost(problem, item, trial, 0, cost)
      for (let l = 0; l < count; l++) cost[l] = (cost[l] as number) - (now[l] as number)
      consider(level, index, chainLoss(problem, loss, trial))
    }
  }
  if (item.mayBeDense) {
    for (let level = 0; level < count; level++) cost[level] = item.size - (now[level] as number)
    consider(-1, -1, 0)
  }
  return best
}

function chainLoss(problem: Problem, loss: Float64Array, chain: Int32Array): number {
  let sum = 0
  for (let level = 0; level < chain.length; level++) {
    sum += (problem.weights[level] as number) * (loss[chain[level] as number] as number)
  }
  return sum
}
