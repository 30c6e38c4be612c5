import type { Item, Problem } from './problem.js'

/** Scratch for `bestChain`, large enough for `ranks` ranks and `levels` levels. */
export class ChainSolver {
  private readonly previous: Float64Array
  private readonly current: Float64Array
  private readonly from: Int32Array[]
  private readonly slopes: Float64Array
  private readonly intercepts: Float64Array
  private readonly owners: Int32Array

  constructor(ranks: number, levels: number) {
    this.previous = new Float64Array(ranks)
    this.current = new Float64Array(ranks)
    this.from = Array.from({ length: levels }, () => new Int32Array(ranks))
    this.slopes = new Float64Array(ranks)
    this.intercepts = new Float64Array(ranks)
    this.owners = new Int32Array(ranks)
  }

  /**
   * The chain of ranks r_0 >= r_1 >= ... that minimises, over all chains,
   * sum over levels l of w_l E(r_l) + block price_l cost(r_l - r_(l+1)), exactly, in O(levels ranks).
   *
   * From the lowest level up, f_l(r) = w_l E(r) + min over r' <= r of f_(l+1)(r') + price_l cost(r - r').
   * With cost(s) = s (T - q s), T = m + n and q = 1 (pivoted) or 0 (plain), the bracket is
   * price_l r (T - q r) plus a line in r with slope 2 q price_l r', so the minimum over r' is the lower
   * envelope of lines that come with rising slopes.
   *
   * @param losses E at `item.ranks`
   * @param blockPrices price of a parameter of the block that level l adds: the sum of the Lagrange
   *   multipliers of the levels that read it (0..l)
   * @param chain receives the index into `item.ranks` of each level, at `at` + l
   * @returns the minimum
   */
  solve(
    item: Item,
    losses: Float64Array,
    problem: Problem,
    blockPrices: Float64Array,
    chain: Int32Array,
    at: number,
  ): number {
    const lowest = blockPrices.length - 1
    const count = item.ranks.length
    const curve = problem.storage === 'pivoted' ? 1 : 0
    let below = this.previous
    let value = this.current
    const price = blockPrices[lowest] as number
    const weight = problem.weights[lowest] as number
    for (let k = 0; k < count; k++) {
      const rank = item.ranks[k] as number
      below[k] =
        k < item.lowestCount
          ? weight * (losses[k] as number) + price * rank * (item.span - curve * rank)
          : Number.POSITIVE_INFINITY
    }
    for (let level = lowest - 1; level >= 0; level--) {
      this.addBlock(
        item,
        losses,
        problem.weights[level] as number,
        blockPrices[level] as number,
        curve,
        below,
        value,
        level,
      )
      const spare = below
      below = value
      value = spare
    }
    let best = 0
    for (let k = 1; k < count; k++) if ((below[k] as number) < (below[best] as number)) best = k
    const minimum = below[best] as number
    for (let level = 0; level <= lowest; level++) {
      chain[at + level] = best
      if (level < lowest) best = (this.from[level] as Int32Array)[best] as number
    }
    return minimum
  }

  private addBlock(
    item: Item,
    losses: Float64Array,
    weight: number,
    price: number,
    curve: number,
    below: Float64Array,
    value: Float64Array,
    level: number,
  ): void {
    const { slopes, intercepts, owners } = this
    const from = this.from[level] as Int32Array
    let top = -1
    for (let k = 0; k < item.ranks.length; k++) {
      const rank = item.ranks[k] as number
      // Lines with larger slopes only get worse as the rank grows: once passed, a line is done with.
      while (
        top > 0 &&
        (slopes[top - 1] as number) * rank + (intercepts[top - 1] as number) <=
          (slopes[top] as number) * rank + (intercepts[top] as number)
      ) {
        top--
      }
      const base = below[k] as number
      if (base < Number.POSITIVE_INFINITY) {
        const slope = 2 * curve * price * rank
        const intercept = base - price * rank * (item.span + curve * rank)
        if (
          top < 0 ||
          slope * rank + intercept < (slopes[top] as number) * rank + (intercepts[top] as number)
        ) {
          while (top > 0 && hidden(slopes, intercepts, top, slope, intercept)) top--
          top++
          slopes[top] = slope
          intercepts[top] = intercept
          owners[top] = k
        }
      }
      from[k] = owners[top] as number
      value[k] =
        weight * (losses[k] as number) +
        price * rank * (item.span - curve * rank) +
        (slopes[top] as number) * rank +
        (intercepts[top] as number)
    }
  }
}

/** Whether the line on top lies nowhere below both its neighbour and the new line, whose slope is largest. */
function hidden(
  slopes: Float64Array,
  intercepts: Float64Array,
  top: number,
  slope: number,
  intercept: number,
): boolean {
  const [a1, b1] = [slopes[top - 1] as number, intercepts[top - 1] as number]
  const [a2, b2] = [slopes[top] as number, intercepts[top] as number]
  return (b1 - b2) * (slope - a2) <= (b2 - intercept) * (a2 - a1)
}
