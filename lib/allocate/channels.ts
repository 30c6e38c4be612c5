import { FlrcError } from '../errors.js'
import { blockCost } from './costs.js'
import { falling } from './falling.js'
import type { FactorStorage, ProjectionShape } from './types.js'

/** Groups of channels that a layer gives up at one loss a group. */
interface Offer {
  layer: number
  groups: number
  /** Loss of each, in nats. */
  price: number
}

/** A layer's lower convex hull of (k, costs[k]) from k = 0 on, as offers of rising price. */
function offersOf(costs: ArrayLike<number>, layer: number): Offer[] {
  const hull = [0]
  const at = (k: number) => costs[k] as number
  const slope = (a: number, b: number) => (at(b) - at(a)) / (b - a)
  for (let k = 1; k < costs.length; k++) {
    while (hull.length > 1) {
      const [a, b] = hull.slice(-2) as [number, number]
      if (slope(a, b) < slope(b, k)) break
      hull.pop()
    }
    hull.push(k)
  }
  return hull.slice(1).map((k, i) => {
    const from = hull[i] as number
    return { layer, groups: k - from, price: slope(from, k) }
  })
}

function checkCosts(costs: readonly ArrayLike<number>[]): void {
  for (const [layer, list] of costs.entries()) {
    const wrong = Array.from(list).find((cost) => !Number.isFinite(cost))
    if (wrong === undefined) continue
    throw new FlrcError(
      'E_NUMERIC',
      `a channel of layer ${layer} costs ${wrong}; check the model's weights for NaN`,
    )
  }
}

/** What to leave of each layer's MLP. */
export interface ChannelShares {
  /** Channels that each layer keeps. */
  widths: number[]
  /** Sum over the layers of what their channels cost, in nats over the calibration text. */
  loss: number
}

/**
 * Drops a share of all MLPs' channels where they cost least: merges the layers' hulls, cheapest group first, until one
 * more group would be beyond the share.
 *
 * @param costs per layer the loss of dropping its k cheapest groups, k = 0.. , in nats over the calibration text; 0 at 0
 * @param channels in each layer
 * @param group channels that are dropped at once
 * @throws E_NUMERIC for costs that are no finite numbers
 */
export function shareChannels(
  costs: readonly ArrayLike<number>[],
  channels: number,
  group: number,
  share: number,
): ChannelShares {
  checkCosts(costs)
  let left = Math.floor((share * channels * costs.length) / group + 1e-9)
  const dropped = costs.map(() => 0)
  // Sorting is stable, and a layer's offers rise in price, so they stay in their order.
  const offers = costs.flatMap(offersOf).sort((a, b) => a.price - b.price)
  for (const { layer, groups } of offers) {
    const taken = Math.min(groups, left)
    dropped[layer] = (dropped[layer] as number) + taken
    left -= taken
  }
  return sharesOf(costs, channels, group, dropped)
}

function sharesOf(
  costs: readonly ArrayLike<number>[],
  channels: number,
  group: number,
  dropped: readonly number[],
): ChannelShares {
  return {
    widths: dropped.map((groups) => channels - groups * group),
    loss: dropped.reduce((sum, groups, layer) => sum + (costs[layer]?.[groups] as number), 0),
  }
}

/** Of a layer's projections, q k v o gate up down. */
const perLayer = 7
const [gate, down] = [4, 6]

/** Ranks of a projection, and numbers of groups of a layer, that are looked at: as many, evenly spread. */
const mostRanks = 96
const mostWidths = 25

function spread(first: number, last: number, most: number): number[] {
  const count = Math.min(most, last - first + 1)
  if (count <= 1) return [last]
  const all = Array.from({ length: count }, (_, i) => first + Math.round((i * (last - first)) / (count - 1)))
  return [...new Set(all)]
}

/** A projection at some of its ranks, with all channels of its layer. */
interface Curve {
  shape: ProjectionShape
  ranks: number[]
  losses: number[]
  /** Which side the channels are. */
  side: 'rows' | 'cols' | 'neither'
}

/** A choice of one projection: what it loses in the levels' mean, and the parameters it has at each level. */
interface Choice {
  loss: number
  costs: number[]
}

/** What chooses the widths goes by. */
export interface ChannelProblem {
  /** All projections of the dense model, layer by layer q k v o gate up down, and the truncation curve of each. */
  projections: readonly ProjectionShape[]
  curves: readonly Float64Array[]
  /** As `shareChannels` has them. */
  costs: readonly ArrayLike<number>[]
  group: number
  storage: FactorStorage
  /** Active budgets, level 0 first, and the share of tokens at each, any scale; equal by default. */
  budgets: readonly number[]
  levelWeights?: readonly number[]
  allowDense: boolean
}

/**
 * How many channels each layer is to keep where ranks are shared out by `curve` afterwards: minimises the estimated loss
 * of dropped channels and cut ranks together, by one price a parameter for all layers, projections and channels. What
 * a projection loses at a rank once a share s of its channels is gone is taken to be 1 - s of what it loses with all of
 * them (docs/quality.md sets that beside curves of its own for every number of channels), and its parameters are those
 * of the smaller shape.
 *
 * @throws E_NUMERIC for costs that are no finite numbers
 */
export function chooseChannels(problem: ChannelProblem): ChannelShares {
  const { costs, group, projections, budgets, levelWeights } = problem
  checkCosts(costs)
  const total = levelWeights?.reduce((sum, weight) => sum + weight, 0) ?? budgets.length
  const weights = budgets.map((_, level) => (levelWeights?.[level] ?? 1) / total)
  const choice = new Chooser(problem, weights)
  const dense = projections.reduce((sum, { rows, cols }) => sum + rows * cols, 0)
  // Each level's price with all channels; together they then rise and fall in proportion.
  const prices = budgets.map((budget) => priceFor((price) => choice.whole(price) <= budget * dense))
  const limit = budgets.reduce((sum, budget, level) => sum + budget * (weights[level] as number) * dense, 0)
  const scaled = (factor: number) => prices.map((price) => price * factor)
  const factor = priceFor((by) => choice.best(scaled(by)).parameters <= limit)
  return sharesOf(costs, projections[down]?.cols ?? 0, group, choice.best(scaled(factor)).dropped)
}

/** The least price, to a thousandth, at which what is asked holds, as it does from some price on. */
function priceFor(holds: (price: number) => boolean): number {
  let [low, high] = [-60, 60]
  while (high - low > 1e-3) {
    const middle = (low + high) / 2
    if (holds(2 ** middle)) high = middle
    else low = middle
  }
  return 2 ** high
}

class Chooser {
  readonly #problem: ChannelProblem
  readonly #weights: readonly number[]
  readonly #curves: Curve[]
  readonly #channels: number

  constructor(problem: ChannelProblem, weights: readonly number[]) {
    this.#problem = problem
    this.#weights = weights
    this.#channels = problem.projections[down]?.cols ?? 0
    this.#curves = problem.projections.map((shape, p) => {
      const curve = falling(problem.curves[p] as Float64Array)
      const ranks = spread(1, curve.length - 1, mostRanks)
      const kind = p % perLayer
      const side = kind === down ? 'cols' : kind >= gate ? 'rows' : 'neither'
      return { shape, ranks, losses: ranks.map((rank) => curve[rank] as number), side }
    })
  }

  /** Parameters of one level at a price, with all channels. */
  whole(price: number): number {
    const costOf = (curve: Curve) => this.#choose(curve, 0, [price], [1]).costs[0] as number
    return this.#curves.reduce((sum, curve) => sum + costOf(curve), 0)
  }

  /** The groups that every layer drops at these prices, and the parameters of the levels' mean. */
  best(prices: readonly number[]): { dropped: number[]; parameters: number } {
    const weights = this.#weights
    const { costs, group } = this.#problem
    const parametersOf = (choice: Choice) =>
      choice.costs.reduce((sum, cost, level) => sum + cost * (weights[level] as number), 0)
    const pricedLoss = (choice: Choice) =>
      choice.costs.reduce(
        (sum, cost, level) => sum + cost * (weights[level] as number) * (prices[level] as number),
        choice.loss,
      )
    let parameters = 0
    const dropped = costs.map((list, layer) => {
      const curves = this.#curves.slice(perLayer * layer, perLayer * (layer + 1))
      for (const curve of curves.slice(0, gate))
        parameters += parametersOf(this.#choose(curve, 0, prices, weights))
      let best = { groups: 0, value: Number.POSITIVE_INFINITY, parameters: 0 }
      for (const groups of spread(0, list.length - 1, mostWidths)) {
        const share = (groups * group) / this.#channels
        const choices = curves.slice(gate).map((curve) => this.#choose(curve, share, prices, weights))
        const value = choices.reduce((sum, choice) => sum + pricedLoss(choice), list[groups] as number)
        if (value >= best.value) continue
        best = { groups, value, parameters: choices.reduce((sum, choice) => sum + parametersOf(choice), 0) }
      }
      parameters += best.parameters
      return best.groups
    })
    return { dropped, parameters }
  }

  /** The cheapest of a projection's choices, prices counted, once this share of the channels is gone. */
  #choose(
    { shape, ranks, losses, side }: Curve,
    share: number,
    prices: readonly number[],
    weights: readonly number[],
  ): Choice {
    const { storage, allowDense } = this.#problem
    const left = side === 'neither' ? 1 : 1 - share
    const rows = side === 'rows' ? shape.rows * left : shape.rows
    const cols = side === 'cols' ? shape.cols * left : shape.cols
    const most = Math.min(rows, cols)
    const costs = ranks.map((rank) => blockCost({ rows, cols }, Math.min(rank, most), storage))
    let [loss, value, denseValue] = [0, 0, 0]
    const chosen = prices.map((price, level) => {
      const weight = weights[level] as number
      let [at, least] = [0, Number.POSITIVE_INFINITY]
      for (let i = 0; i < ranks.length; i++) {
        const here = left * (losses[i] as number) + price * (costs[i] as number)
        if (here < least) [at, least] = [i, here]
      }
      loss += weight * left * (losses[at] as number)
      value += weight * least
      denseValue += weight * price * rows * cols
      return costs[at] as number
    })
    if (allowDense && denseValue < value) return { loss: 0, costs: prices.map(() => rows * cols) }
    return { loss, costs: chosen }
  }
}
