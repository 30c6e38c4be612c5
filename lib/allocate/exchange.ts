import type { Losses, State } from './chains.js'
import { costOf, lossOf } from './chains.js'
import { spendRest } from './improve.js'
import type { Problem } from './problem.js'

/** Nearer than this to the lower bound, as a share of the loss, exchanges are not worth their time. */
const closeEnough = 1e-3
/** With more projections than this, a step is too small a share of the budget for exchanges to matter. */
const mostProjections = 64
const mostPasses = 4

function copyOf(state: State): State {
  return { chain: state.chain.slice(), dense: state.dense.slice() }
}

/** Versions of the allocation in which one projection has given something back. */
function* releases(problem: Problem, state: State, p: number): Generator<State> {
  const count = problem.limits.length
  const at = p * count
  const bottom = copyOf(state)
  bottom.dense[p] = 0
  bottom.chain.fill(0, at, at + count)
  yield bottom
  if (state.dense[p]) return
  for (let level = 0; level < count; level++) {
    const index = (state.chain[at + level] as number) - 1
    if (index < 0) return
    const lower = copyOf(state)
    for (let l = level; l < count; l++) lower.chain[at + l] = Math.min(lower.chain[at + l] as number, index)
    yield lower
  }
}

/** A lower level that gives ranks back makes the block above it larger, so higher levels may cost more. */
function isWithin(problem: Problem, state: State): boolean {
  return costOf(problem, state).every((cost, level) => cost <= (problem.limits[level] as number))
}

/**
 * Local search for models of few projections, where one step is a large share of the budget: lets one
 * projection after the other give back one rank, or all, and spends that on the others first. Keeps what lowers
 * the loss, until nothing does. (Large models come within 1e-3 of the lower bound without it.)
 */
export function exchange(
  problem: Problem,
  losses: Losses,
  start: State,
  prices: ArrayLike<number>,
  lowerBound: number,
): State {
  let state = start
  let loss = lossOf(problem, losses, state)
  if (problem.items.length > mostProjections) return state
  let improved = true
  for (let pass = 0; improved && pass < mostPasses; pass++) {
    improved = false
    for (let p = 0; p < problem.items.length; p++) {
      if (loss - lowerBound <= closeEnough * loss) return state
      for (const trial of releases(problem, state, p)) {
        spendRest(problem, losses, trial, prices, p)
        spendRest(problem, losses, trial, prices)
        const trialLoss = lossOf(problem, losses, trial)
        if (trialLoss >= loss * (1 - 1e-9) || !isWithin(problem, trial)) continue
        state = trial
        loss = trialLoss
        improved = true
        break
      }
    }
  }
  return state
}
