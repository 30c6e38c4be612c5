import type { FactorStorage, ProjectionShape, Rank } from './types.js'

type Shape = Pick<ProjectionShape, 'rows' | 'cols'>

/**
 * Numbers stored for a block of `ranks` ranks of a rows x cols projection: r (m + n) as plain factors,
 * r (m + n - r) as a pivoted block (Pivoting Factorization, ICML 2025), which reaches m n at full rank.
 */
export function blockCost(shape: Shape, ranks: number, storage: FactorStorage): number {
  const span = shape.rows + shape.cols
  return ranks * (storage === 'pivoted' ? span - ranks : span)
}

/**
 * Block parameters read per token at each level of one projection.
 *
 * The ranks that a level adds to the next lower one form a block of their own, so a level costs the sum of
 * its blocks: falling ranks 5, 3, 3 are pivoted blocks of 3, 0 and 2.
 *
 * @param ranks level 0 first, not rising; `dense` on all levels or on none
 */
export function costOfRanks(shape: Shape, ranks: readonly Rank[], storage: FactorStorage): number[] {
  const costs = new Array<number>(ranks.length)
  let below = 0
  let cost = 0
  for (let level = ranks.length - 1; level >= 0; level--) {
    const rank = ranks[level] as Rank
    if (rank === 'dense') {
      costs[level] = shape.rows * shape.cols
      continue
    }
    cost += blockCost(shape, rank - below, storage)
    below = rank
    costs[level] = cost
  }
  return costs
}

/**
 * The largest rank that costs no more than the dense projection: floor(m n / (m + n)) for plain factors;
 * min(m, n), where nothing is lost, for one pivoted block.
 */
export function breakEvenRank(rows: number, cols: number, storage: FactorStorage = 'plain'): number {
  return storage === 'pivoted' ? Math.min(rows, cols) : Math.floor((rows * cols) / (rows + cols))
}

/** Parameters of dense projections: the sum of m n. */
export function denseParametersOf(projections: readonly Shape[]): number {
  return projections.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
}

/**
 * Active budget of each level: block parameters read per token / dense block parameters.
 *
 * @param levels levels[l][p], level 0 first, in the order of `projections`
 * @param dense those of the dense model, where the projections are not all of it
 */
export function budgetOf(
  projections: readonly Shape[],
  levels: readonly (readonly Rank[])[],
  storage: FactorStorage,
  dense = denseParametersOf(projections),
): number[] {
  const sums = new Array<number>(levels.length).fill(0)
  for (const [p, shape] of projections.entries()) {
    const ranks = levels.map((level) => level[p] as Rank)
    for (const [l, cost] of costOfRanks(shape, ranks, storage).entries()) sums[l] = (sums[l] as number) + cost
  }
  return sums.map((sum) => sum / dense)
}
