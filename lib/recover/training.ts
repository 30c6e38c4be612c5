import { callNative } from '../binding.js'
import type { LoadedModel, ModelParts, TaskOptions } from '../model.js'
import type { RecoveryHandle } from './handle.js'
import type { RecoveryPoint, RecoveryReport } from './report.js'
import { batchOf, heldOutOf, levelOf, rateAt, weightsOf } from './schedule.js'
import { RecoveryState, type RecoveryStateOptions } from './state.js'

/** Adam's averages, and its longest step, relative to the root mean square of a row of weights. */
const adam = { beta1: 0.9, beta2: 0.99, rate: 1e-2 }

/** Most of its KL that a step may change to first order, when the rate is highest. */
const defaultChange = 0.4

/** Evaluations may take this share of the time. */
const evaluationShare = 0.1

export interface TrainingSettings extends TaskOptions {
  /** Token windows to train and to hold out from; at least 2. */
  windows: readonly Int32Array[]
  /** How long to train, evaluations included. */
  minutes: number
  /** Trains this many steps instead, whatever time they take; the result is then reproducible. */
  steps?: number
  /** Windows in a batch; as many as the machine has cores, at least 2, by default. */
  batch?: number
  /** Type that the factors are stored in; training sees them rounded to it. */
  dtype: ModelParts['dtype']
  /** Levels of the model, and the share of steps spent at each. */
  levels: number
  levelWeights?: readonly number[]
  seed: number
  /** Bytes that activations and the dense model's states may hold. */
  memory: number
  scratch: string
  /** Most of its KL that a step may change to first order, when the rate is highest. */
  change?: number
  /** Where the state is written for an interrupted run to go on from; nowhere by default. */
  state?: RecoveryStateOptions
}

interface Note {
  step: number
  tokens: number
  milliseconds: number
  best: RecoveryPoint
  curve: RecoveryPoint[]
}

/**
 * Distils the dense model into the factors of `start` (docs/method.md, Recovery): Adam on the factors for
 * KL(dense || compressed), a level drawn for every step, on the windows that are not held out. Of all factors that
 * were evaluated on the held-out windows the best are taken, so the result is never worse there than `start`,
 * which is released. Errors: E_NUMERIC where training diverges, E_IO where the state cannot be written,
 * E_MODEL_FORMAT for a damaged one, E_BUSY where another run has it, E_ABORTED.
 */
export async function train(
  dense: LoadedModel,
  start: ModelParts,
  settings: TrainingSettings,
): Promise<{ parts: ModelParts; report: RecoveryReport }> {
  const { windows, dtype, memory, scratch, signal } = settings
  let state: RecoveryState | undefined
  let handle: RecoveryHandle | undefined
  try {
    // First, so that a run which has to wait, or gives up, holds no memory meanwhile.
    state = settings.state && (await RecoveryState.open(settings.state, signal))
    handle = await dense.createRecovery(start.native, { windows, dtype, memory, scratch }, signal)
    const report = await new Training(handle, state, settings).run()
    return { parts: { ...start, native: await handle.finish(), dtype }, report }
  } finally {
    handle?.dispose()
    state?.release()
    callNative((addon) => addon.releaseModel(start.native))
  }
}

class Training {
  readonly #handle: RecoveryHandle
  readonly #settings: TrainingSettings
  readonly #state: RecoveryState | undefined
  readonly #weights: number[]
  readonly #heldOut: Int32Array
  /** Indices of the windows that are trained on. */
  readonly #training: Int32Array
  readonly #batch: number
  readonly #change: number
  readonly #begin = performance.now()
  /** Milliseconds of runs before this one, and of the last evaluation. */
  #before = 0
  #evaluationTime = 0
  #step = 0
  #tokens = 0
  #curve: RecoveryPoint[] = []
  #best: RecoveryPoint | undefined

  constructor(handle: RecoveryHandle, state: RecoveryState | undefined, settings: TrainingSettings) {
    const { windows, levels, levelWeights, batch, change = defaultChange } = settings
    this.#handle = handle
    this.#settings = settings
    this.#weights = weightsOf(levels, levelWeights)
    this.#heldOut = heldOutOf(windows.length)
    this.#training = Int32Array.from(windows.keys()).filter((index) => !this.#heldOut.includes(index))
    this.#batch =
      batch ??
      Math.max(
        2,
        callNative((addon) => addon.info().cores),
      )
    this.#change = change
    this.#state = state
  }

  async run(): Promise<RecoveryReport> {
    if (await this.#state?.exists()) await this.#resume()
    if (this.#curve.length === 0) await this.#evaluate()
    let nextEvaluation = this.#afterEvaluation()
    let share = this.#share()
    while (share < 1) {
      await this.#train(share)
      await this.#state?.saveWhenDue(this.#handle, () => this.#note())
      share = this.#share()
      if (share >= 1 || this.#elapsed() < nextEvaluation) continue
      await this.#evaluate()
      nextEvaluation = this.#afterEvaluation()
      share = this.#share()
    }
    if (this.#curve.at(-1)?.step !== this.#step) await this.#evaluate()
    return this.#report()
  }

  async #train(share: number): Promise<void> {
    const { windows, seed, steps } = this.#settings
    const chosen = batchOf(this.#step, this.#batch, this.#training.length, seed)
    const batch = chosen.map((index) => this.#training[index] ?? 0)
    // A step of many stands for its middle; the first one is not to be of length 0.
    const fall = rateAt(share + (steps === undefined ? 0 : 0.5 / steps))
    await this.#handle.step({
      windows: batch,
      level: levelOf(this.#step, this.#weights, seed),
      beta1: adam.beta1,
      beta2: adam.beta2,
      rate: adam.rate * fall,
      change: this.#change * fall,
    })
    this.#step += 1
    this.#tokens += batch.reduce((sum, index) => sum + (windows[index]?.length ?? 0), 0)
  }

  async #evaluate(): Promise<void> {
    const begin = performance.now()
    const figures = []
    for (const level of this.#weights.keys()) figures.push(await this.#handle.evaluate(this.#heldOut, level))
    const point = {
      step: this.#step,
      tokens: this.#tokens,
      minutes: this.#elapsed() / 60_000,
      kl: figures.map(({ kl }) => kl),
      loss: figures.map(({ loss }) => loss),
    }
    this.#curve.push(point)
    if (this.#best === undefined || this.#objective(point) < this.#objective(this.#best)) {
      this.#best = point
      await this.#handle.keep()
    }
    this.#evaluationTime = performance.now() - begin
  }

  #objective({ kl }: RecoveryPoint): number {
    return this.#weights.reduce((sum, weight, level) => sum + weight * (kl[level] ?? 0), 0)
  }

  #elapsed(): number {
    return this.#before + performance.now() - this.#begin
  }

  #afterEvaluation(): number {
    return this.#elapsed() + this.#evaluationTime / evaluationShare
  }

  /** How much of the budget is used, the last evaluation set aside; reported as progress. */
  #share(): number {
    const { steps, minutes, onProgress } = this.#settings
    const [done, total] =
      steps === undefined
        ? [this.#elapsed(), Math.max(1, minutes * 60_000 - this.#evaluationTime)]
        : [this.#step, steps]
    // A time is told in whole seconds, and never as done before it is.
    const unit = steps === undefined ? 1000 : 1
    const whole = Math.ceil(total / unit)
    onProgress?.({ stage: 'recover', done: done < total ? Math.floor(done / unit) : whole, total: whole })
    return done / total
  }

  #note(): Note {
    const best = this.#best as RecoveryPoint
    const milliseconds = this.#elapsed()
    return { step: this.#step, tokens: this.#tokens, milliseconds, best, curve: this.#curve }
  }

  async #resume(): Promise<void> {
    // The state is of just this run: its file's name and size are checked, and its note was written with it.
    const note = (await this.#state?.load(this.#handle)) as Note
    this.#step = note.step
    this.#tokens = note.tokens
    this.#before = note.milliseconds
    this.#best = note.best
    this.#curve = note.curve
  }

  #report(): RecoveryReport {
    return {
      minutes: this.#elapsed() / 60_000,
      steps: this.#step,
      tokens: this.#tokens,
      windows: this.#training.length,
      heldOut: this.#heldOut.length,
      batch: this.#batch,
      change: this.#change,
      seed: this.#settings.seed,
      best: this.#best as RecoveryPoint,
      curve: this.#curve,
    }
  }
}
