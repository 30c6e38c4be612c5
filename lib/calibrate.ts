import { mkdir } from 'node:fs/promises'
import { tmpdir, totalmem } from 'node:os'
import type { FactorStorage, Sensitivity } from './allocate.js'
import { packageVersion } from './binding.js'
import type { CalibrationHandle } from './calibration/handle.js'
import type { CalibrationText, UsedSource } from './calibration/sources.js'
import { loadCalibration, type SaveCalibrationOptions, saveCalibration } from './calibration/stored.js'
import { type CalibrationWindows, calibrationWindows, usualSamples } from './calibration/windows.js'
import { checkObject, checkOneOf, checkPath, checkRange, checkTask, checkWhole } from './check.js'
import { ioError } from './checkpoint/io.js'
import { sha256OfFiles } from './checkpoint/plan.js'
import { OpenState } from './checkpoint/state.js'
import { FlrcError } from './errors.js'
import { availableMemory } from './memory.js'
import {
  type CalibrationData,
  checkModel,
  type LoadedModel,
  type ModelParts,
  type TaskOptions,
} from './model.js'
import type { NativeCalibrationResult, NativeCuts, NativeFactorizeOptions } from './native-types.js'
import { sequencesOf } from './text.js'

export type { CalibrationText } from './calibration/sources.js'

export type Whitening = 'none' | 'scaled' | 'input' | 'two-sided'

export interface CalibrateOptions extends TaskOptions {
  /** Sources of the token windows; what the model writes itself (`[{ self: true }]`) by default. */
  calibration?: readonly CalibrationText[]
  /** Windows to use at most; 64 by default. */
  samples?: number
  /** Tokens in a window; 512 by default, or the context where that is less. */
  seqLen?: number
  /**
   * Where the labels of the Fisher information come from: `model` (the default) draws them from the model
   * itself (the true Fisher), `data` takes the text's next token (the empirical one).
   */
  labels?: 'model' | 'data'
  /** Seed of the drawn labels and of what the model writes itself; 0 by default. */
  seed?: number
  /**
   * What the factors are optimal under: `two-sided` (K-FAC, the default), the moment of the inputs (`input`, as in
   * SVD-LLM), the inputs' mean magnitudes alone (`scaled`, as in ASVD with its alpha 1/2), or `none` (plain SVD).
   */
  whitening?: Whitening
  /**
   * Weakens what a finite text overstates in the moments. By default .1 of the inputs' and .5 of the gradients' with
   * two-sided whitening, nothing with any other: those are as published.
   */
  shrinkage?: Partial<Shrinkage>
  /**
   * Bytes that calibrating may hold beside the model's weights; half of what this process may use by default. What
   * does not fit goes to scratch files, or is done one thing after another, down to one projection at a time.
   */
  memory?: number
  /** Whether to compute truncation curves (true by default); only the method `curve` needs them. */
  curves?: boolean
  /**
   * Whether to keep the moment of every input (false by default): `compress` rounds to int8 and int4 against them,
   * and asks for them itself where it calibrates. They are another 2 n^2 bytes an input of n channels, in memory or
   * on disk.
   */
  inputMoments?: boolean
  /**
   * Windows to hold out for measuring: as many as the sources have behind those calibrated on, none by default.
   * The model's own text always has as many.
   */
  heldOut?: number
  /** Holds them out even where fewer are then left to calibrate on; false by default. */
  mustHoldOut?: boolean
  /**
   * A path beside which every finished layer is kept, so that an interrupted calibration can go on: the folder is
   * `<path>-<hash of all that decides the result>`, and stays until you remove it, once the result is saved. 5 to 8
   * bytes a block parameter, and the gradients between two layers; `compress` with `dropChannels: 'auto'` has a second
   * one, of what is left of the channels. None by default.
   */
  state?: string
  /** Goes on from that state where there is one; without it a state left over is ignored and replaced. */
  resume?: boolean
}

/**
 * Shares, from 0 to 1, of a moment M that is replaced by its own diagonal: (1 - s) M + s diag(M). A finite text says
 * more of single channels than of pairs of them.
 */
export interface Shrinkage {
  /** Of A, the moment of the inputs. */
  inputs: number
  /** Of B, the moment of the output gradients. */
  gradients: number
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

/** The windows to calibrate on, and the seconds that making them took. */
export type MadeWindows = CalibrationWindows & { seconds: number }

/** What a calibration is made of. */
export interface CalibrationContents {
  handle: CalibrationHandle
  /** Where channels were dropped from it, the model with all of them. */
  whole?: LoadedModel
  figures: CalibrationData['figures']
  options: Calibration['options']
  hashes: Calibration['hashes']
  made: Omit<MadeWindows, 'sha256'>
  sensitivities?: readonly Sensitivity[]
}

export interface LoadCalibrationOptions extends TaskOptions {
  /** Bytes that cutting models from it may hold; half of what this process may use by default. */
  memory?: number
}

/** Chosen on held-out windows; see docs/quality.md. */
const twoSidedShrinkage: Shrinkage = { inputs: 0.1, gradients: 0.5 }
const noShrinkage: Shrinkage = { inputs: 0, gradients: 0 }
export const usualWhitening: Whitening = 'two-sided'

export const whitenings: readonly Whitening[] = ['none', 'scaled', 'input', 'two-sided']

/** What one look at the calibration text says about a model; any number of compressions can use it. */
export class Calibration {
  readonly model: LoadedModel
  /** The dense model that compressed ones stand beside: `model`, or what channels were dropped from to make it. */
  readonly whole: LoadedModel
  /** By projection name. */
  readonly scores: Readonly<Record<string, ProjectionScores>>
  /** E(r), r = 0..rank, in nats over the whole text, by projection in the model's order; empty without curves. */
  readonly curves: readonly Float64Array[]
  readonly figures: CalibrationFigures
  readonly options: Readonly<
    Required<Pick<CalibrateOptions, 'labels' | 'seed' | 'whitening' | 'inputMoments'>>
  > & {
    readonly shrinkage: Shrinkage
    /** Of a model without some channels, with what they were ranked. */
    readonly ranking?: Shrinkage
    readonly samples: number
    /** Windows that were asked for; `samples` is fewer where the sources had no more. */
    readonly samplesAsked: number
    readonly seqLen: number
    readonly tokens: number
  }
  /** Where the token windows came from. */
  readonly sources: readonly UsedSource[]
  /** Seconds that making the windows took: tokenising, and writing where the model did. */
  readonly windowSeconds: number
  /** SHA-256 of the model's weight files and of the calibration's sources. */
  readonly hashes: { readonly model: string; readonly calibration: string }
  /** The token windows that were looked at. */
  readonly windows: readonly Int32Array[]
  /** Windows of the same sources that were not looked at. */
  readonly heldOut: readonly Int32Array[]
  /** What `sensitivitySearch` found over all projections, for later compressions of the same storage. */
  readonly sensitivities = new Map<FactorStorage, Sensitivity>()
  readonly #handle: CalibrationHandle

  constructor(contents: CalibrationContents) {
    const { handle, whole = handle.model, figures, options, hashes, made, sensitivities = [] } = contents
    const { scores, ...rest } = figures
    this.#handle = handle
    this.model = handle.model
    this.whole = whole
    this.figures = rest
    this.curves = figures.curves
    this.options = options
    this.hashes = hashes
    this.windows = made.windows
    this.heldOut = made.heldOut
    this.sources = made.sources
    this.windowSeconds = made.seconds
    for (const found of sensitivities) this.sensitivities.set(found.storage, found)
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

  /**
   * Reads what `save` wrote. The factors stay in the files, which are read whenever a model is cut and are not to be
   * changed or removed meanwhile. Errors: E_USAGE for a calibration of another model, or of this one held in another
   * type; E_MODEL_FORMAT, E_NUMERIC and E_CALIBRATION for a damaged one, E_VERSION, E_NOT_FOUND, E_IO, E_DISPOSED,
   * E_ABORTED.
   */
  static async load(
    model: LoadedModel,
    directory: string,
    options: LoadCalibrationOptions = {},
  ): Promise<Calibration> {
    checkObject('the third argument', options, 'options, such as { memory: 2e9 }')
    const { memory = defaultMemory(), signal, onProgress } = options
    checkModel(model)
    model.assertUsable()
    checkPath('the directory', directory, 'a path of a calibration')
    checkWhole('memory', memory, 1)
    const hash = await sha256OfFiles(weightFiles(model), signal)
    return new Calibration(await loadCalibration(model, directory, hash, { memory, signal, onProgress }))
  }

  /** Whether truncation curves were computed. */
  get hasCurves(): boolean {
    return this.curves.every((curve) => curve.length > 0)
  }

  /** Bytes of all tensors as `save` writes them. */
  get storedBytes(): number {
    return this.#handle.tensorEntries().reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  /** Mean loss of the text's own next tokens, nats. */
  get meanLoss(): number {
    return this.figures.meanLoss
  }

  /** Cuts a model from the factors; int8 and int4 are rounded to the nearest where no input moments were kept. */
  factorize(options: NativeFactorizeOptions, keep: number, task: TaskOptions): Promise<ModelParts> {
    return this.#handle.factorize(options, keep, task)
  }

  /** Summed loss in nats of windows of `seqLen` tokens, by rank, with that projection alone cut. */
  cutLosses(cuts: NativeCuts, tokens: Int32Array, seqLen: number, task: TaskOptions): Promise<Float64Array> {
    return this.#handle.cutLosses(cuts, tokens, seqLen, task)
  }

  /**
   * Writes all of it as a directory, whole or not at all, for `Calibration.load`. Errors: E_EXISTS (also for the model
   * that was calibrated, whatever `overwrite` says), E_IO (disk full, permissions), E_ABORTED, E_DISPOSED.
   */
  async save(directory: string, options: SaveCalibrationOptions = {}): Promise<void> {
    checkObject('the second argument', options, 'options, such as { overwrite: true }')
    await saveCalibration(this, this.#handle, directory, options)
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
 * truncation curves of every projection. E_CALIBRATION where a source gives no window, E_USAGE for an unusable
 * option or dialogue or a compressed model, E_CHAT_TEMPLATE for dialogues without a template, E_CONTEXT where seqLen
 * exceeds the context.
 */
export async function calibrate(model: LoadedModel, options: CalibrateOptions = {}): Promise<Calibration> {
  checkObject('the second argument', options, 'options, such as { samples: 64 }')
  checkCalibrateOptions(model, options)
  refuseFactored(model, 'calibrate')
  return calibrateOn(model, await makeWindows(model, options), options)
}

/** Rejects what could not be calibrated with, before any work. E_USAGE names the option. */
export function checkCalibrateOptions(
  model: LoadedModel,
  options: Omit<CalibrateOptions, 'calibration'>,
): void {
  const { labels = 'model', seed = 0, whitening = usualWhitening, samples = usualSamples } = options
  const { memory = defaultMemory(), heldOut = 0, state } = options
  checkModel(model)
  checkTask(options)
  checkOneOf('labels', labels, ['model', 'data'])
  checkOneOf('whitening', whitening, whitenings)
  const shrinkage = shrinkageOf(whitening, options)
  for (const side of ['inputs', 'gradients'] as const) {
    checkRange(`shrinkage.${side}`, shrinkage[side], 0, 1, 'a number from 0 to 1')
  }
  checkWhole('seed', seed, 0)
  checkWhole('memory', memory, 1)
  checkWhole('samples', samples, 1)
  checkWhole('heldOut', heldOut, 0)
  if (state !== undefined) checkPath('state', state, 'a path to keep what is done beside')
}

/** E_USAGE for a model that has factors already; `verb` is what was to be done with it. */
export function refuseFactored({ source, levels }: LoadedModel, verb: string): void {
  const { path: file } = source
  if (levels.some(({ ranks }) => Object.values(ranks).some((rank) => rank !== 'dense'))) {
    throw new FlrcError('E_USAGE', `${file} is compressed already; ${verb} the original model`, { file })
  }
}

/** The windows of these options' sources. Errors as of `calibrationWindows`. */
export async function makeWindows(model: LoadedModel, options: CalibrateOptions): Promise<MadeWindows> {
  const begin = performance.now()
  const made = await calibrationWindows(model, { ...options, memory: options.memory ?? defaultMemory() })
  return { ...made, seconds: (performance.now() - begin) / 1000 }
}

export function shrinkageOf(
  whitening: Whitening,
  { shrinkage }: Pick<CalibrateOptions, 'shrinkage'>,
): Shrinkage {
  return { ...(whitening === 'two-sided' ? twoSidedShrinkage : noShrinkage), ...shrinkage }
}

/** What ranking channels shrinks by, whatever the whitening: it is two-sided itself. */
export function rankingShrinkage(options: Pick<CalibrateOptions, 'shrinkage'>): Shrinkage {
  return shrinkageOf('two-sided', options)
}

/** Calibrates on windows at hand; `whole` is the model that channels were dropped from to make this one. */
export async function calibrateOn(
  model: LoadedModel,
  made: MadeWindows,
  options: CalibrateOptions,
  whole?: LoadedModel,
): Promise<Calibration> {
  const {
    labels = 'model',
    seed = 0,
    whitening = usualWhitening,
    curves = true,
    inputMoments = false,
    memory = defaultMemory(),
  } = options
  const shrinkage = shrinkageOf(whitening, options)
  const ranked = whole ? { ranking: rankingShrinkage(options) } : {}
  const { windows } = made
  const sequences = sequencesOf(windows)
  const settings = {
    ...sequences,
    labels,
    seed,
    whitening,
    curves,
    jitter: 1e-8,
    shrinkage,
    memory,
    randomisedRank: 0,
    keepInputMoments: inputMoments,
  }
  // The files are read while the native side computes, unless it goes on from a state of just this model; what goes
  // wrong with them is told after it.
  const hashed = sha256OfFiles(weightFiles(model), options.signal)
  hashed.catch(() => undefined)
  const state = await calibrationState(options, async () => ({
    ...{ version: packageVersion, model: await hashed, config: model.config },
    ...{ dtype: model.dtype, device: model.device },
    ...{ labels, seed, whitening, shrinkage, ...ranked, curves, inputMoments },
    windows: windows.map((window) => Array.from(window)),
  }))
  const kept = state && { state: state.path, lock: state.lock }
  // The native side unlinks its scratch file as soon as it is open, so no way of ending leaves one.
  const { figures, handle } = await model
    .calibrate({ ...settings, ...kept, scratch: tmpdir() }, options)
    .finally(() => state?.release())
  const modelHash = await hashed.catch((error: unknown) => {
    handle.dispose()
    throw error
  })
  const seqLen = settings.lengths.reduce((a, b) => Math.max(a, b), 0)
  return new Calibration({
    ...{ handle, whole, figures, made },
    options: {
      ...{ labels, seed, whitening, shrinkage, ...ranked, inputMoments },
      ...{ samples: windows.length, samplesAsked: options.samples ?? usualSamples, seqLen },
      tokens: sequences.tokens.length,
    },
    hashes: { model: modelHash, calibration: made.sha256 },
  })
}

/**
 * Where a state is wanted, the folder that the native side keeps its layers in, empty unless there is something to go
 * on from. E_BUSY, E_IO, E_ABORTED.
 */
async function calibrationState(
  { state: prefix, resume = false, signal }: CalibrateOptions,
  keyOf: () => Promise<unknown>,
): Promise<OpenState | undefined> {
  if (prefix === undefined) return undefined
  const state = await OpenState.open({ prefix, key: await keyOf(), resume }, signal)
  try {
    await mkdir(state.path, { recursive: true })
  } catch (error) {
    state.release()
    throw ioError(error, state.path)
  }
  return state
}

function weightFiles(model: LoadedModel): string[] {
  return [...new Set(Array.from(model.source.tensors.values(), ({ file }) => file))]
}

/** Half of the memory that this process may use, in bytes, or what of it is free where that is less. */
export function defaultMemory(): number {
  const allowed = process.constrainedMemory?.() ?? 0
  const half = Math.floor((allowed > 0 ? Math.min(allowed, totalmem()) : totalmem()) / 2)
  return Math.max(1, Math.min(half, availableMemory()))
}
