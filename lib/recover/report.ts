/** The held-out windows at one moment of the training. */
export interface RecoveryPoint {
  step: number
  /** Tokens trained on by then. */
  tokens: number
  /** Minutes since the start, interruptions not counted. */
  minutes: number
  /** By level, mean KL(dense || compressed) a token in nats. */
  kl: number[]
  /** By level, mean next-token loss of the compressed model in nats. */
  loss: number[]
}

/** What a recovery did. */
export interface RecoveryReport {
  minutes: number
  steps: number
  tokens: number
  /** Windows trained on, held out, and in a batch. */
  windows: number
  heldOut: number
  batch: number
  /** Most of its KL that a step may change to first order, when the rate is highest. */
  change: number
  seed: number
  /** The factors that were taken: those with the least held-out KL, weighted over the levels. */
  best: RecoveryPoint
  /** Held-out figures from before the first step to after the last. */
  curve: RecoveryPoint[]
}
