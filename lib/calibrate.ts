import { createHash } from 'node:crypto'
import { tmpdir, totalmem } from 'node:os'
import { checkOneOf, checkWhole } from './check.js'
import { sha256OfFiles, sha256OfText } from './checkpoint/plan.js'
import { FlrcError } from './errors.js'
import type { CalibrationHandle, LoadedModel, ModelParts, TaskOptions } from './model.js'
import type { NativeCalibrationResult, NativeFactorizeOptions } from './native-types.js'
import { concatenate, firstTokens } from './text.js'

/** A text, or a text with its share of the samples (1 by default), or ready token windows. */
export type CalibrationText = string | { text: string; weight?: number } | Int32Array

export interface CalibrateOptions extends TaskOptions {
  calibration: readonly CalibrationText[]
  /** Windows to use at most; 64 by default. */
  samples?: number
  /** Tokens in a window; 512 by default, or the context where that is less. */
  seqLen?: number
  /**
   * Where the labels of the Fisher information come from: `model` (the default) draws them from the model
   * itself (the true Fisher), `data` takes the text's next token (the empirical one).
   */
  labels?: 'model' | 'data'
  /** Seed of the drawn labels; 0 by default. */
  seed?: number
  /** What the factors are optimal under; two-sided (K-FAC) by default. */
  whitening?: 'none' | 'input' | 'two-sided'
  /** Bytes that activations and factors may hold; half of what this process may use by default. */
  memory?: number
  /** Whether to compute truncation curves (true by default); only the method `curve` needs them. */
  curves?: boolean
}

/** Fisher scores of a projection (design 3): sums over sequences of the gradient G and the weights W. */
export interface ProjectionScores {
  /** sum (G o W)^2 */
  fisher: number
  /** sum G^2 */
  gradient: number
  /** sum |G o W| */
  taylor: number
}

export type CalibrationFigures = Omit<NativeCalibrationResult, 'calibration' | 'scores'>

/** What one look at the calibration text says about a model; any number of compressions can use it. */
export class Calibration {
  readonly model: LoadedModel
  /** By projection name. */
  readonly scores: Readonly<Record<string, ProjectionScores>>
  /** E(r), r = 0..rank, in nats over the whole text, by projection in the model's order; empty without curves. */
  readonly curves: readonly Float64Array[]
  readonly figures: CalibrationFigures
  readonly options: Readonly<Required<Pick<CalibrateOptions, 'labels' | 'seed' | 'whitening'>>> & {
    readonly samples: number
    readonly seqLen: number
    readonly tokens: number
  }
  /** SHA-256 of the model's weight files and of the calibration's token windows. */
  readonly hashes: { readonly model: string; readonly calibration: string }
  readonly #handle: CalibrationHandle

  constructor(
    handle: CalibrationHandle,
    scores: NativeCalibrationResult['scores'],
    figures: CalibrationFigures,
    options: Calibration['options'],
    hashes: Calibration['hashes'],
  ) {
    this.#handle = handle
    this.model = handle.model
    this.figures = figures
    this.curves = figures.curves
    this.options = options
    this.hashes = hashes
    this.scores = Object.fromEntries(
      this.model.projections.map(({ name }, index) => [
        name,
        {
          fisher: scores.fisher[index] ?? 0,
          gradient: scores.gradient[index] ?? 0,
          taylor: scores.taylor[index] ?? 0,
        },
      ]),
    )
  }

  /** Mean loss of the text's own next tokens, nats. */
  get meanLoss(): number {
    return this.figures.meanLoss
  }

  /** Cuts a model from the factors. */
  factorize(options: NativeFactorizeOptions, keep: number, task: TaskOptions): Promise<ModelParts> {
    return this.#handle.factorize(options, keep, task)
  }

  /** Frees the factors; models cut from them live on. */
  dispose(): void {
    this.#handle.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/**
 * Runs the calibration text forward and backward through the model: Fisher scores, moments, nested factors and
 * truncation curves of every projection. E_CALIBRATION where the text gives no window, E_USAGE for an unusable
 * option, E_CONTEXT where seqLen exceeds the context.
 */
export async function calibrate(model: LoadedModel, options: CalibrateOptions): Promise<Calibration> {
  const {
    labels = 'model',
    seed = 0,
    whitening = 'two-sided',
    curves = true,
    memory = defaultMemory(),
  } = options
  checkOneOf('labels', labels, ['model', 'data'])
  checkOneOf('whitening', whitening, ['none', 'input', 'two-sided'])
  checkWhole('seed', seed, 0)
  checkWhole('memory', memory, 1)
  const windows = calibrationWindows(model, options)
  const tokens = concatenate(windows)
  const settings = {
    tokens,
    lengths: Int32Array.from(windows, (window) => window.length),
    labels,
    seed,
    whitening,
    curves,
    jitter: 1e-8,
    shrinkage: 0,
    memory,
    randomisedRank: 0,
  }
  // The native side unlinks its scratch file as soon as it is open, so no way of ending leaves one.
  const calibrated = model.calibrate({ ...settings, scratch: tmpdir() }, options)
  // The files are read while the native side computes; what goes wrong with them is told after it.
  const hashed = sha256OfFiles(weightFiles(model), options.signal)
  hashed.catch(() => undefined)
  const { figures, handle } = await calibrated
  const { scores, ...rest } = figures
  const seqLen = settings.lengths.reduce((a, b) => Math.max(a, b), 0)
  return new Calibration(
    handle,
    scores,
    rest,
    { labels, seed, whitening, samples: windows.length, seqLen, tokens: tokens.length },
    { model: await hashed, calibration: sha256OfTexts(options.calibration) },
  )
}

function weightFiles(model: LoadedModel): string[] {
  return [...new Set(Array.from(model.source.tensors.values(), ({ file }) => file))]
}

/** Of one text its own hash, of several that of their hashes' lines. */
function sha256OfTexts(texts: readonly CalibrationText[]): string {
  const hashes = texts.map((text) =>
    createHash('sha256')
      .update(text instanceof Int32Array || typeof text === 'string' ? text : text.text)
      .digest('hex'),
  )
  return hashes.length === 1 ? (hashes[0] ?? '') : sha256OfText(hashes.map((hash) => `${hash}\n`).join(''))
}

/** Half of the memory that this process may use, in bytes. */
export function defaultMemory(): number {
  const allowed = process.constrainedMemory?.() ?? 0
  return Math.floor((allowed > 0 ? Math.min(allowed, totalmem()) : totalmem()) / 2)
}

/**
 * Cuts the calibration texts into windows: each text is tokenised once and gives the first of its consecutive,
 * non-overlapping windows, as many as its weight's share of `samples`.
 */
export function calibrationWindows(
  model: LoadedModel,
  { calibration, samples = 64, seqLen: asked }: Pick<CalibrateOptions, 'calibration' | 'samples' | 'seqLen'>,
): Int32Array[] {
  const context = model.config.contextLength
  const seqLen = asked ?? Math.min(512, context)
  checkWhole('samples', samples, 1)
  checkWhole('seqLen', seqLen, 2)
  if (seqLen > context) {
    throw new FlrcError(
      'E_CONTEXT',
      `seqLen ${seqLen} exceeds the context of ${context}; give at most ${context}`,
    )
  }
  if (calibration.length === 0) {
    throw new FlrcError('E_CALIBRATION', 'no calibration text given; give one of a few hundred kilobytes')
  }
  const parts = calibration.map((part) =>
    part instanceof Int32Array
      ? { windows: [checkWindow(part, model)], weight: 0 }
      : cutText(model, part, seqLen, samples),
  )
  const ready = parts.filter((part) => part.weight === 0).flatMap((part) => part.windows)
  const texts = parts.filter((part) => part.weight > 0)
  const shares = shareOut(
    Math.max(0, samples - ready.length),
    texts.map((part) => part.weight),
  )
  const windows = [...ready, ...texts.flatMap((part, index) => part.windows.slice(0, shares[index]))]
  return windows.slice(0, samples)
}

function cutText(
  model: LoadedModel,
  part: string | { text: string; weight?: number },
  seqLen: number,
  most: number,
) {
  const { text, weight = 1 } = typeof part === 'string' ? { text: part } : part
  if (typeof text !== 'string') throw new FlrcError('E_USAGE', 'a calibration text must be a string')
  if (!(weight > 0 && Number.isFinite(weight))) {
    throw new FlrcError('E_USAGE', `a calibration text has the weight ${weight}; give a number above 0`)
  }
  const tokens = firstTokens(model.tokenizer, text, most * seqLen)
  if (tokens.length < seqLen) {
    throw new FlrcError(
      'E_CALIBRATION',
      `the calibration text has ${tokens.length} tokens and a window takes ${seqLen}; give a longer text or shorter windows`,
    )
  }
  const count = Math.floor(tokens.length / seqLen)
  const windows = Array.from({ length: count }, (_, index) =>
    tokens.slice(index * seqLen, (index + 1) * seqLen),
  )
  return { windows, weight }
}

function checkWindow(window: Int32Array, model: LoadedModel): Int32Array {
  const { contextLength, vocabSize } = model.config
  if (window.length < 2 || window.length > contextLength) {
    throw new FlrcError(
      'E_CALIBRATION',
      `a token window has ${window.length} tokens; give 2 to ${contextLength}`,
    )
  }
  if (window.some((token) => token < 0 || token >= vocabSize)) {
    throw new FlrcError(
      'E_CALIBRATION',
      `a token window holds ids outside 0 to ${vocabSize - 1}; tokenise it again`,
    )
  }
  return window
}

/** Whole shares of `total` in proportion to the weights, by largest remainder; none is 0 where all can have 1. */
export function shareOut(total: number, weights: readonly number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0)
  const exact = weights.map((weight) => (total * weight) / sum)
  const shares = exact.map(Math.floor)
  const rest = (index: number) => (exact[index] ?? 0) % 1
  const byRest = weights.map((_, index) => index).sort((a, b) => rest(b) - rest(a))
  const left = total - shares.reduce((a, b) => a + b, 0)
  for (const index of byRest.slice(0, left)) shares[index] = (shares[index] ?? 0) + 1
  while (total >= weights.length && shares.includes(0)) {
    const largest = shares.indexOf(Math.max(...shares))
    shares[largest] = (shares[largest] ?? 0) - 1
    shares[shares.indexOf(0)] = 1
  }
  return shares
}
