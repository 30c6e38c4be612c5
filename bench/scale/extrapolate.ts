import { blockParameters, type ModelShape, parameters } from './shapes.js'

/** What is compressed, and how. */
export interface Job {
  shape: ModelShape
  /** Calibration tokens, and tokens of a window. */
  tokens: number
  seqLen: number
  keep: number
}

export const stages = ['passes', 'moments', 'factorize', 'curves', 'cut'] as const
export type Stage = (typeof stages)[number]

/** Floating-point operations of a job by stage; leading terms only. */
export type Work = Record<Stage, number>

/** Operations a second of one core, by stage. */
export type Rates = Record<Stage, number>

interface Projection {
  rows: number
  columns: number
}

/** The seven projections of a layer. */
function projections({ hidden, intermediate, heads, kvHeads, headDim }: ModelShape): Projection[] {
  return [
    { rows: heads * headDim, columns: hidden },
    { rows: kvHeads * headDim, columns: hidden },
    { rows: kvHeads * headDim, columns: hidden },
    { rows: hidden, columns: heads * headDim },
    { rows: intermediate, columns: hidden },
    { rows: intermediate, columns: hidden },
    { rows: hidden, columns: intermediate },
  ]
}

const thin = ({ rows, columns }: Projection) => Math.min(rows, columns)
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)

/** The rank at which a pivoted block costs this share of the projection: r (m + n - r) = keep m n. */
export function pivotedRank({ rows, columns }: Projection, keep: number): number {
  const both = rows + columns
  return (both - Math.sqrt(both * both - 4 * keep * rows * columns)) / 2
}

/** Whitening, the eigenproblem (some 9 n^3 of LAPACK's dsyevd with vectors) and both factors of one projection. */
function factorizeWork(projection: Projection): number {
  const t = thin(projection)
  const wide = Math.max(projection.rows, projection.columns)
  return 14 * t ** 3 + 3 * t * t * wide
}

/** Pivoted QR of U^T, the coefficients and the pivot rows of one projection. */
function cutWork(projection: Projection, keep: number): number {
  const { rows, columns } = projection
  const rank = pivotedRank(projection, keep)
  const qr = 2 * rank * rank * rows - (2 / 3) * rank ** 3
  const solve = (2 / 3) * rank ** 3 + 2 * rank * rank * (rows - rank)
  return qr + solve + 2 * rank * rank * columns
}

export function workOf({ shape, tokens, seqLen, keep }: Job): Work {
  const { layers, hidden, vocab, heads, headDim } = shape
  const layer = projections(shape)
  // Forward twice, backward and the scores' gradients of weights, 2 operations a parameter and token each;
  // attention over half a window forward twice and backward; the head forward and backward.
  const attention = layers * 8 * heads * headDim * seqLen
  const passes = tokens * (8 * blockParameters(shape) + attention + 4 * vocab * hidden)
  // Half of a product, of the thin side of every projection: inputs (where not shared) and gradients.
  const moments = tokens * layers * sum(layer.map((p) => 2 * thin(p) ** 2))
  return {
    passes,
    moments,
    factorize: layers * sum(layer.map(factorizeWork)),
    curves: tokens * layers * sum(layer.map((p) => 2 * thin(p) * (p.rows + p.columns))),
    cut: layers * sum(layer.map((p) => cutWork(p, keep))),
  }
}

/** Operations a second and core that a measurement came to, from its seconds on so many cores. */
export function ratesOf(job: Job, seconds: Record<Stage, number>, cores: number): Rates {
  const work = workOf(job)
  const rate = (stage: Stage) => work[stage] / (seconds[stage] * cores)
  return Object.fromEntries(stages.map((stage) => [stage, rate(stage)])) as Rates
}

/**
 * Seconds by stage on so many cores. Windows, tiles and layers' cuts spread over all cores; factors do so only
 * over the seven projections of one layer, each on one core, so that the largest of them is a lower bound.
 */
export function secondsOf(job: Job, rates: Rates, cores: number): Record<Stage, number> {
  const work = workOf(job)
  const windows = Math.max(1, job.tokens / job.seqLen)
  const layer = projections(job.shape)
  const longest = job.shape.layers * Math.max(...layer.map(factorizeWork))
  return {
    passes: work.passes / rates.passes / Math.min(cores, windows),
    moments: work.moments / rates.moments / cores,
    factorize: Math.max(work.factorize / cores, longest) / rates.factorize,
    curves: work.curves / rates.curves / Math.min(cores, windows),
    cut: Math.max(work.cut / cores, ...layer.map((p) => cutWork(p, job.keep))) / rates.cut,
  }
}

export interface Space {
  /** The loaded model in BF16. */
  weights: number
  /** The least that calibrating and cutting hold beside it: one window, one input's moments, one projection. */
  least: number
  /** The same with everything at once on so many cores. */
  most: number
  /** What is kept of the text and of finished layers, in memory or on disk. */
  stored: { boundaries: number; activations: number; factors: number }
}

/** Bytes of memory and scratch; the core's own accounting is native/calibrate/limits.cc. */
export function spaceOf({ shape, tokens, seqLen, keep }: Job, cores: number): Space {
  const layer = projections(shape)
  const { hidden, vocab } = shape
  // A tall projection keeps what it passes back, a wide one with an input of its own (o, down) what it passes on.
  const seen = layer.filter(
    ({ rows, columns }, i) => rows > columns || (rows < columns && (i === 3 || i === 6)),
  )
  const wide = 4 * sum(layer.map(({ rows, columns }) => rows * columns))
  const widths = sum(layer.map(({ rows, columns }) => rows + columns))
  const window = 4 * seqLen * (4 * hidden + 2 * widths)
  const momentsOf = ({ rows, columns }: Projection) => 8 * thin({ rows, columns }) ** 2
  const factorBytes = (p: Projection) => 8 * thin(p) * (Math.max(p.rows, p.columns) + 5 * thin(p))
  const cutBytes = (p: Projection) => 24 * pivotedRank(p, keep) * p.rows + 4 * thin(p) * (p.rows + p.columns)
  const head = 4 * 256 * vocab
  const largest = Math.max(...layer.map(factorBytes))
  const cut = Math.max(...layer.map(cutBytes))
  const atOnce = Math.min(cores, layer.length)
  return {
    weights: 2 * parameters(shape),
    least: Math.max(wide + Math.max(window, Math.max(...layer.map(momentsOf)) + largest), head, cut),
    most: Math.max(
      wide + cores * window + sum(layer.map(momentsOf)) + atOnce * largest,
      cores * head,
      cores * cut,
    ),
    stored: {
      boundaries: 4 * tokens * hidden * shape.layers,
      // Of one layer: inputs (shared ones once), gradients of outputs, and what projections see of the wide side.
      activations: 4 * tokens * (widths - 3 * hidden + sum(seen.map(thin))),
      factors: 4 * shape.layers * sum(layer.map((p) => thin(p) * (p.rows + p.columns))),
    },
  }
}
