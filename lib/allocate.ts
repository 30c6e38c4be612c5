import type { Losses } from './allocate/chains.js'
import { lossesOf, ranksOf } from './allocate/chains.js'
import { blockCost, budgetOf, costOfRanks, denseParametersOf } from './allocate/costs.js'
import { energyCurve } from './allocate/energy.js'
import { falling } from './allocate/falling.js'
import { allocateByHull } from './allocate/hull.js'
import { allocateLevels } from './allocate/levels.js'
import type { Problem } from './allocate/problem.js'
import { makeProblem, smallestBudget, statedProblem } from './allocate/problem.js'
import { allocateFisher, allocateUniform } from './allocate/proportional.js'
import { allocateBySensitivity, sensitivityRatios } from './allocate/sensitivity.js'
import type { Allocation, AllocationOptions, ProjectionShape, Rank } from './allocate/types.js'
import { FlrcError } from './errors.js'

export { blockCost, breakEvenRank, budgetOf, costOfRanks, denseParametersOf } from './allocate/costs.js'
export { levelBudgets } from './allocate/problem.js'
export { rankAtRatio, sensitivityRatios } from './allocate/sensitivity.js'
export type {
  Allocation,
  AllocationMethod,
  AllocationOptions,
  FactorStorage,
  ProjectionShape,
  Rank,
  Sensitivity,
} from './allocate/types.js'

function checkNumbers(values: ArrayLike<number>, what: string, tensor: string | undefined): void {
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number
    if (value >= 0 && value < Number.POSITIVE_INFINITY) continue
    throw new FlrcError(
      'E_NUMERIC',
      `${what} has the value ${value} at ${i}; check the model's weights for NaN`,
      {
        tensor,
      },
    )
  }
}

function checkedCurves(projections: readonly ProjectionShape[], curves: readonly Float64Array[]): void {
  if (curves.length !== projections.length) {
    throw new FlrcError(
      'E_USAGE',
      `${curves.length} truncation curves for ${projections.length} projections; give one per projection`,
    )
  }
  for (const [p, { name, rows, cols }] of projections.entries()) {
    const curve = curves[p] as Float64Array
    const full = Math.min(rows, cols)
    if (curve.length < 2 || curve.length > full + 1) {
      throw new FlrcError(
        'E_USAGE',
        `the truncation curve of ${name} has ${curve.length} entries; give E(r) for r = 0..R with R from 1 to ${full}`,
        { tensor: name },
      )
    }
    checkNumbers(curve, `the truncation curve of ${name}`, name)
  }
}

/** Lists of numbers, one per projection, each of the length that `lengthOf` says. */
function checkedLists(
  projections: readonly ProjectionShape[],
  lists: readonly Float64Array[] | undefined,
  what: string,
  lengthOf: (shape: ProjectionShape) => number,
): readonly Float64Array[] {
  if (lists?.length !== projections.length) {
    throw new FlrcError(
      'E_USAGE',
      `${what} are given for ${lists?.length ?? 0} of ${projections.length} projections; give them for each`,
    )
  }
  for (const [p, shape] of projections.entries()) {
    const list = lists[p] as Float64Array
    if (list.length !== lengthOf(shape)) {
      throw new FlrcError(
        'E_USAGE',
        `${what} of ${shape.name} are ${list.length} numbers; give ${lengthOf(shape)}`,
        { tensor: shape.name },
      )
    }
    checkNumbers(list, `the list of ${what} of ${shape.name}`, shape.name)
  }
  return lists
}

function checkedScores(projections: readonly ProjectionShape[], scores: ArrayLike<number> | undefined) {
  if (scores === undefined || scores.length !== projections.length) {
    throw new FlrcError(
      'E_USAGE',
      `method fisher has ${scores?.length ?? 0} scores for ${projections.length} projections; give one per projection`,
    )
  }
  checkNumbers(scores, 'the list of scores', undefined)
  return scores
}

function solveCurve(problem: Problem, losses: Losses): { levels: Rank[][]; lowerBound: number } {
  const solution =
    problem.limits.length === 1 ? allocateByHull(problem, losses) : allocateLevels(problem, losses)
  return { levels: ranksOf(problem, solution.state), lowerBound: solution.lowerBound }
}

function solve(
  problem: Problem,
  projections: readonly ProjectionShape[],
  options: AllocationOptions,
): { levels: Rank[][]; lowerBound?: number } {
  const lowest = problem.limits[problem.limits.length - 1] as number
  if ((options.allowDense ?? true) && lowest >= denseParametersOf(projections)) {
    return { levels: problem.limits.map(() => projections.map(() => 'dense')), lowerBound: 0 }
  }
  switch (options.method) {
    case 'uniform':
      return { levels: allocateUniform(problem) }
    case 'fisher': {
      const power = options.power ?? 1
      if (!(power >= 0 && power < Number.POSITIVE_INFINITY)) {
        throw new FlrcError('E_USAGE', `the power is ${power}; give a number of at least 0`)
      }
      return { levels: allocateFisher(problem, checkedScores(projections, options.scores), power) }
    }
    case 'curve': {
      if (options.curves === undefined) {
        throw new FlrcError(
          'E_USAGE',
          'method curve has no truncation curves; calibrate with curves, or use fisher',
        )
      }
      return solveCurve(problem, lossesOf(problem, options.curves))
    }
    case 'energy': {
      const full = ({ rows, cols }: ProjectionShape) => Math.min(rows, cols)
      const singular = checkedLists(projections, options.singular, 'singular values', full)
      return { levels: solveCurve(problem, lossesOf(problem, singular.map(energyCurve))).levels }
    }
    case 'asvd': {
      if (problem.limits.length > 1) {
        throw new FlrcError('E_USAGE', 'method asvd has one level; leave levels out, or use another method')
      }
      const grid = () => sensitivityRatios.length
      const losses = checkedLists(projections, options.sensitivity, 'sensitivities', grid)
      return { levels: [allocateBySensitivity(problem, losses)] }
    }
    default:
      throw new FlrcError(
        'E_USAGE',
        `unknown method ${options.method}; give uniform, fisher, energy, asvd or curve`,
      )
  }
}

/**
 * Shares the budgets out: one rank per projection and level.
 *
 * `uniform` keeps the same share of every projection; `fisher` gives ranks in proportion to score^power;
 * `energy` minimises the sum of the squared singular values cut, over the model one threshold on s^2 / (m + n) with
 * plain factors; `asvd` cuts each as far as the text's loss, with it alone cut, stays within one threshold;
 * `curve` minimises the sum of the truncation curves. Every realised budget is at or below the one asked for,
 * and within .002 of it unless one step (a rank multiple of a projection, or leaving one dense) is a larger
 * share of the model than that, or, for `curve` and `energy`, no change that fits lowers the estimated loss.
 *
 * @throws E_USAGE for options that cannot be met (the message names the smallest feasible keep),
 *   E_NUMERIC for scores or curves that are not finite and not negative
 */
export function allocate(projections: readonly ProjectionShape[], options: AllocationOptions): Allocation {
  const { storage } = options
  if (options.curves !== undefined) checkedCurves(projections, options.curves)
  const curves = options.curves?.map(falling)
  const problem = makeProblem(
    projections,
    options,
    curves?.map((curve) => curve.length - 1),
  )
  const { levels, lowerBound } = solve(problem, projections, { ...options, curves })
  leaveDense(problem, levels)
  let storedParameters = 0
  for (const [p, shape] of projections.entries()) {
    const ranks = levels.map((level) => level[p] as Rank)
    storedParameters += costOfRanks(shape, ranks, storage)[0] as number
  }
  return {
    levels,
    budgets: budgetOf(projections, levels, storage, problem.denseParameters),
    storedParameters,
    denseParameters: problem.denseParameters,
    estimatedLoss: curves && levels.map((ranks) => estimate(curves, ranks)),
    lowerBound: options.method === 'curve' ? lowerBound : undefined,
  }
}

/**
 * Rejects what `allocate` would reject whatever is known of the projections' worth. E_USAGE.
 *
 * @param narrows whether the projections are still to become smaller, after which smaller budgets may be enough
 */
export function checkAllocation(
  projections: readonly ProjectionShape[],
  options: AllocationOptions,
  narrows: boolean,
): void {
  if (narrows) statedProblem(projections, options, undefined)
  else makeProblem(projections, options, undefined)
}

/**
 * The smallest keep that the rank floor and multiple of these options allow, whatever their budgets. E_USAGE for
 * options that no keep allows.
 */
export function smallestKeep(projections: readonly ProjectionShape[], options: AllocationOptions): number {
  const limits = options.curves?.map((curve) => curve.length - 1)
  return smallestBudget(makeProblem(projections, { ...options, budgets: [1], levelWeights: undefined }, limits))
}

/** What costs as much as the dense projection even at the lowest level saves nothing: it is left dense. */
function leaveDense({ items, storage }: Problem, levels: Rank[][]): void {
  for (const [p, item] of items.entries()) {
    const rank = levels[levels.length - 1]?.[p]
    if (!item.mayBeDense || typeof rank !== 'number' || blockCost(item, rank, storage) < item.size) continue
    for (const level of levels) level[p] = 'dense'
  }
}

function estimate(curves: readonly Float64Array[], ranks: readonly Rank[]): number {
  return ranks.reduce<number>(
    (sum, rank, p) => sum + (rank === 'dense' ? 0 : ((curves[p] as Float64Array)[rank] ?? 0)),
    0,
  )
}
