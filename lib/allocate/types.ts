/** How factors lie on disk and in memory, which decides what a rank costs. */
export type FactorStorage = 'pivoted' | 'plain'

/** The rank of one projection at one level; `dense` leaves the projection as it is. */
export type Rank = number | 'dense'

export type AllocationMethod = 'uniform' | 'fisher' | 'energy' | 'asvd' | 'curve'

/** A projection W (rows x cols): `rows` outputs, `cols` inputs. */
export interface ProjectionShape {
  /** Name without `.weight`. */
  name: string
  /** Which of the seven it is, such as `q_proj`. */
  kind: string
  rows: number
  cols: number
}

export interface AllocationOptions {
  method: AllocationMethod
  storage: FactorStorage
  /**
   * Active budget of each level as a fraction of the dense block parameters, level 0 (keep) first, falling,
   * each in (0, 1].
   */
  budgets: readonly number[]
  /** Per projection, not negative: the importance that `fisher` shares ranks out by. */
  scores?: ArrayLike<number>
  /** Per projection E(0..R): the loss added by cutting it to that rank. `curve` needs them. */
  curves?: readonly Float64Array[]
  /** Per projection the singular values of its whitened matrix, all ranks, falling. `energy` needs them. */
  singular?: readonly Float64Array[]
  /**
   * Per projection the calibration text's mean loss with only it cut, at each of `sensitivityRatios`. `asvd` needs
   * them.
   */
  sensitivity?: readonly Float64Array[]
  /**
   * Least rank of a factored projection: ranks where 1 or more, a share of min(rows, cols) below 1.
   * Default 1; a projection never falls to rank 0.
   */
  rankFloor?: number
  /** Ranks are multiples of this. Default 1. */
  rankMultiple?: number
  /** Block parameters of the dense model, of which budgets are shares. Default: those of the projections. */
  denseParameters?: number
  /** Whether a projection may stay dense. Default true. */
  allowDense?: boolean
  /** Exponent of `fisher`: rank proportional to score^power. Default 1. */
  power?: number
  /** Share of tokens spent at each level, any scale; `curve` weighs its levels by it. Default: all equal. */
  levelWeights?: readonly number[]
}

export interface Allocation {
  /** levels[l][p]: rank of projection p at level l, in the order of the projections given. */
  levels: Rank[][]
  /** Realised active budget of each level: at or below the one asked for. */
  budgets: number[]
  /** Block parameters stored, which is what level 0 reads. */
  storedParameters: number
  denseParameters: number
  /** Sum of E_p(rank) over the projections, per level; only where curves were given. */
  estimatedLoss?: number[]
  /**
   * `curve` only: no allocation within the budgets has a smaller weighted sum of `estimatedLoss` (weights
   * summing to 1); from the Lagrangian dual.
   */
  lowerBound?: number
}

/** What ASVD's search measures: how much the calibration text's loss rises where only one projection is cut. */
export interface Sensitivity {
  storage: FactorStorage
  /** Shares of its dense parameters that each projection was cut to. */
  ratios: readonly number[]
  projections: {
    name: string
    /** Mean loss of the text, in nats per token, at each ratio. */
    losses: Float64Array
    /** What measuring it took. */
    seconds: number
  }[]
  windows: number
  /** Tokens of those windows. */
  tokens: number
  seconds: number
}
