import { FlrcError } from '../errors.js'
import { blockCost, breakEvenRank, denseParametersOf } from './costs.js'
import type { AllocationOptions, FactorStorage, ProjectionShape } from './types.js'

/** One projection as the methods see it. */
export interface Item {
  rows: number
  cols: number
  /** m n: what it costs dense. */
  size: number
  /** m + n. */
  span: number
  /** Ranks it may take, rising; never empty. */
  ranks: Int32Array
  /**
   * How many of `ranks` the lowest level may take. Higher levels may go past break-even: what counts there is
   * that the projection can fall.
   */
  lowestCount: number
  mayBeDense: boolean
}

/** A checked allocation problem. */
export interface Problem {
  items: Item[]
  storage: FactorStorage
  /** Parameters that each level may read, level 0 first. */
  limits: number[]
  /** Weight of each level, summing to 1. */
  weights: number[]
  /** What budgets are shares of. */
  denseParameters: number
}

function usage(message: string): FlrcError {
  return new FlrcError('E_USAGE', message)
}

function checkBudgets(budgets: readonly number[]): void {
  if (budgets.length === 0) throw usage('no budget given; give keep, a number in (0, 1]')
  for (const [level, budget] of budgets.entries()) {
    if (!(budget > 0 && budget <= 1)) {
      const what = level === 0 ? 'keep' : `the budget of level ${level}`
      throw usage(`${what} is ${budget}; give a number in (0, 1]`)
    }
    if (level > 0 && budget >= (budgets[level - 1] as number)) {
      throw usage(
        `the budgets ${budgets.join(', ')} do not fall; give levels with falling budgets, each below keep`,
      )
    }
  }
}

/**
 * Budgets of all levels, level 0 (keep) first, from what a user gives: `levels` may start with keep itself
 * or leave it out.
 *
 * @throws E_USAGE for budgets outside (0, 1], not falling, or above keep
 */
export function levelBudgets(keep: number, levels: readonly number[] = []): number[] {
  const first = levels[0]
  if (first !== undefined && first > keep + 1e-9) {
    throw usage(`level ${first} is above keep ${keep}; give levels at most keep, or a higher keep`)
  }
  const startsWithKeep = first !== undefined && Math.abs(first - keep) <= 1e-9
  const budgets = [keep, ...(startsWithKeep ? levels.slice(1) : levels)]
  checkBudgets(budgets)
  return budgets
}

function checkPositiveInteger(value: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < 1)
    throw usage(`${what} is ${value}; give a whole number of at least 1`)
}

function checkFloor(floor: number): void {
  const whole = floor >= 1 && Number.isSafeInteger(floor)
  if (!whole && !(floor >= 0 && floor < 1)) {
    throw usage(`the rank floor is ${floor}; give a whole number of ranks, or a share of full rank below 1`)
  }
}

function allowedRanks(shape: ProjectionShape, limit: number, options: AllocationOptions): Int32Array {
  const { rankFloor = 1, rankMultiple = 1, allowDense = true, storage } = options
  const full = Math.min(shape.rows, shape.cols)
  const last = Math.min(full, limit)
  const asked = rankFloor < 1 ? Math.ceil(rankFloor * full) : rankFloor
  const breakEven = Math.max(1, Math.min(last, breakEvenRank(shape.rows, shape.cols, storage)))
  const floor = Math.max(1, Math.min(asked, breakEven))
  const ranks: number[] = []
  for (let rank = Math.ceil(floor / rankMultiple) * rankMultiple; rank <= last; rank += rankMultiple)
    ranks.push(rank)
  // A projection too small for the multiple keeps a rank that pays.
  if ((ranks[0] ?? Number.POSITIVE_INFINITY) > breakEven) ranks.unshift(breakEven)
  // Without the dense option full rank is the only way to lose nothing, whatever the multiple.
  const losesNothing = !allowDense && storage === 'pivoted' && last === full
  if (losesNothing && ranks[ranks.length - 1] !== full) ranks.push(full)
  return Int32Array.from(ranks)
}

function levelWeightsOf(options: AllocationOptions): number[] {
  const count = options.budgets.length
  const given = options.levelWeights
  if (given === undefined) return new Array<number>(count).fill(1 / count)
  if (given.length !== count)
    throw usage(`${given.length} level weights for ${count} levels; give one weight per level`)
  const sum = given.reduce((total, weight) => total + weight, 0)
  if (!given.every((weight) => weight >= 0) || !(sum > 0 && sum < Number.POSITIVE_INFINITY)) {
    throw usage(`level weights ${given.join(', ')}; give numbers of at least 0 that are not all 0`)
  }
  // A level that is never used still gets sensible ranks.
  const raised = given.map((weight) => Math.max(weight / sum, 1e-6))
  const total = raised.reduce((a, b) => a + b, 0)
  return raised.map((weight) => weight / total)
}

/** The least that a projection can cost at the lowest level. */
export function leastCost(item: Item, storage: FactorStorage): number {
  const cost = blockCost(item, item.ranks[0] as number, storage)
  return item.mayBeDense ? Math.min(cost, item.size) : cost
}

function leastParameters({ items, storage }: Problem): number {
  return items.reduce((sum, item) => sum + leastCost(item, storage), 0)
}

/** The smallest budget, rounded up, that the floor and the multiple allow. */
export function smallestBudget(problem: Problem): number {
  return Math.min(1, Math.ceil((leastParameters(problem) / problem.denseParameters) * 1e6) / 1e6)
}

function checkFeasible(problem: Problem, options: AllocationOptions): void {
  const lowest = problem.limits.length - 1
  if (leastParameters(problem) <= (problem.limits[lowest] as number)) return
  const smallest = smallestBudget(problem)
  const budget = options.budgets[lowest]
  const what = lowest === 0 ? `keep ${budget}` : `the lowest level ${budget}`
  const { rankFloor = 1, rankMultiple = 1 } = options
  throw usage(
    `${what} is not enough for rank floor ${rankFloor} and rank multiple ${rankMultiple}, ` +
      `which need at least ${smallest}; give ${smallest} or more, or lower the floor or the multiple`,
  )
}

/**
 * Checks the options, and that their budgets are enough, and lists what every projection may take.
 *
 * @param rankLimits per projection, the highest rank that is known of (the length of its curve less one)
 * @throws E_USAGE
 */
export function makeProblem(
  projections: readonly ProjectionShape[],
  options: AllocationOptions,
  rankLimits: ArrayLike<number> | undefined,
): Problem {
  const problem = statedProblem(projections, options, rankLimits)
  checkFeasible(problem, options)
  return problem
}

/** `makeProblem`, whether the budgets are enough or not. */
export function statedProblem(
  projections: readonly ProjectionShape[],
  options: AllocationOptions,
  rankLimits: ArrayLike<number> | undefined,
): Problem {
  const { storage, allowDense = true, rankFloor = 1, rankMultiple = 1 } = options
  if (projections.length === 0) throw usage('no projections to share the rank out to; give a model with layers')
  checkBudgets(options.budgets)
  checkFloor(rankFloor)
  checkPositiveInteger(rankMultiple, 'the rank multiple')
  const items = projections.map((shape, p): Item => {
    checkPositiveInteger(shape.rows, `rows of ${shape.name}`)
    checkPositiveInteger(shape.cols, `columns of ${shape.name}`)
    const ranks = allowedRanks(shape, rankLimits?.[p] ?? Number.POSITIVE_INFINITY, options)
    const breakEven = breakEvenRank(shape.rows, shape.cols, storage)
    return {
      rows: shape.rows,
      cols: shape.cols,
      size: shape.rows * shape.cols,
      span: shape.rows + shape.cols,
      ranks,
      lowestCount: Math.max(1, ranks.filter((rank) => rank <= breakEven).length),
      mayBeDense: allowDense,
    }
  })
  const total = denseParametersOf(projections)
  const { denseParameters = total } = options
  // A hair of tolerance: 0.7 of 10 parameters are 7, although 0.7 * 10 is 6.999... in binary.
  const parametersOf = (budget: number) => Math.floor(budget * denseParameters * (1 + 1e-12) + 1e-6)
  // Left dense, the projections lose nothing: there is no use in more.
  const limits = options.budgets.map((budget) => Math.min(total, parametersOf(budget)))
  return { items, storage, limits, weights: levelWeightsOf(options), denseParameters }
}
