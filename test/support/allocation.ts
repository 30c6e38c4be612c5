import { falling } from '#lib/allocate/falling.js'
import {
  costOfRanks,
  type FactorStorage,
  type ProjectionShape,
  type Rank,
  sensitivityRatios,
} from '#lib/allocate.js'

/** A seeded generator of numbers in [0, 1) (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export interface TestModel {
  projections: ProjectionShape[]
  curves: Float64Array[]
  scores: Float64Array
  singular: Float64Array[]
  sensitivity: Float64Array[]
}

/** Singular values that fall at a pace of their own, and losses that fall with the ratio, a little noisy. */
export function spectraOf(projections: readonly ProjectionShape[], random: () => number) {
  const singular = projections.map(({ rows, cols }) => {
    const [scale, pace] = [Math.exp(3 * random()), 4 * random()]
    const full = Math.min(rows, cols)
    const values = Float64Array.from(
      { length: full },
      (_, j) => scale * Math.exp((-pace * (j + random())) / full),
    )
    return values.sort().reverse()
  })
  const sensitivity = projections.map(() => {
    const scale = random() ** 3
    return Float64Array.from(sensitivityRatios, (ratio) => 3 + scale * (1 - ratio) ** 2 * (1 + 0.2 * random()))
  })
  return { singular, sensitivity }
}

/** The seven projections of each layer, with curves that fall unevenly and are a little noisy. */
export function llamaLike(layers: number, hidden: number, kv: number, inner: number, seed: number): TestModel {
  const random = seeded(seed)
  const projections: ProjectionShape[] = []
  for (let layer = 0; layer < layers; layer++) {
    const shapes: [string, number, number][] = [
      ['q_proj', hidden, hidden],
      ['k_proj', kv, hidden],
      ['v_proj', kv, hidden],
      ['o_proj', hidden, hidden],
      ['gate_proj', inner, hidden],
      ['up_proj', inner, hidden],
      ['down_proj', hidden, inner],
    ]
    for (const [kind, rows, cols] of shapes)
      projections.push({ name: `layers.${layer}.${kind}`, kind, rows, cols })
  }
  const curves = projections.map(({ rows, cols }) => {
    const full = Math.min(rows, cols)
    const scale = Math.exp(3 * random()) * rows * cols
    const bend = 0.4 + 12 * random()
    const noisy = Float64Array.from({ length: full + 1 }, (_, rank) => {
      const t = rank / full
      if (rank === full) return 0
      return scale * (Math.exp(-bend * t) - Math.exp(-bend)) * (1 - t) * (1 + 0.02 * random())
    })
    return falling(noisy)
  })
  const scores = Float64Array.from(projections, () => Math.exp(2 * random()))
  return { projections, curves, scores, ...spectraOf(projections, random) }
}

/** A few projections of 3 to 8 rows and columns, with jagged curves: small enough to try everything. */
export function tinyModel(count: number, largest: number, seed: number): TestModel {
  const random = seeded(seed)
  const side = () => 3 + Math.floor(random() * (largest - 2))
  const projections = Array.from({ length: count }, (_, i) => ({
    name: `p${i}`,
    kind: 'q_proj',
    rows: side(),
    cols: side(),
  }))
  const curves = projections.map(({ rows, cols }) => {
    const full = Math.min(rows, cols)
    const scale = Math.exp(3 * random())
    const curve = new Float64Array(full + 1)
    for (let rank = full - 1; rank >= 0; rank--) {
      const rise = scale * random() * Math.exp((full - rank) * 0.3)
      curve[rank] = Math.max(0, (curve[rank + 1] as number) + (random() < 0.1 ? -0.2 * rise : rise))
    }
    return falling(curve)
  })
  const scores = Float64Array.from(projections, () => random())
  return { projections, curves, scores, ...spectraOf(projections, random) }
}

interface Choice {
  ranks: Rank[]
  costs: number[]
  loss: number
}

/**
 * The smallest weighted loss of all allocations within the limits, by trying every one: each projection takes
 * any chain of falling ranks (the lowest at most break-even), or is dense. Infinity where none fits.
 */
export function bruteForce(
  { projections, curves }: Pick<TestModel, 'projections' | 'curves'>,
  limits: readonly number[],
  weights: readonly number[],
  storage: FactorStorage,
  allowDense: boolean,
): number {
  const choices = projections.map((shape, p): Choice[] => {
    const { rows, cols } = shape
    const breakEven = storage === 'plain' ? Math.floor((rows * cols) / (rows + cols)) : Math.min(rows, cols)
    const all: Choice[] = allowDense
      ? [{ ranks: limits.map(() => 'dense'), costs: limits.map(() => rows * cols), loss: 0 }]
      : []
    const extend = (ranks: number[], most: number) => {
      if (ranks.length === limits.length) {
        if ((ranks[ranks.length - 1] as number) > breakEven) return
        const loss = ranks.reduce(
          (sum, rank, l) => sum + (weights[l] as number) * (curves[p]?.[rank] as number),
          0,
        )
        all.push({ ranks, costs: costOfRanks(shape, ranks, storage), loss })
        return
      }
      for (let rank = 1; rank <= most; rank++) extend([...ranks, rank], rank)
    }
    extend([], Math.min(rows, cols))
    return all.sort((a, b) => a.loss - b.loss)
  })
  const leastAfter = new Array<number>(choices.length + 1).fill(0)
  for (let p = choices.length - 1; p >= 0; p--) {
    leastAfter[p] = (leastAfter[p + 1] as number) + (choices[p]?.[0]?.loss ?? 0)
  }
  let best = Number.POSITIVE_INFINITY
  const search = (p: number, costs: readonly number[], loss: number) => {
    if (loss + (leastAfter[p] as number) >= best) return
    if (p === choices.length) {
      best = loss
      return
    }
    for (const choice of choices[p] as Choice[]) {
      const next = costs.map((cost, l) => cost + (choice.costs[l] as number))
      if (next.every((cost, l) => cost <= (limits[l] as number))) search(p + 1, next, loss + choice.loss)
    }
  }
  search(
    0,
    limits.map(() => 0),
    0,
  )
  return best
}
