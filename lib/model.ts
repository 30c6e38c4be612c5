import { setMaxListeners } from 'node:events'
import { callNative, runTask } from './binding.js'
import { CalibrationHandle } from './calibration/handle.js'
import { checkedListener, refuse } from './check.js'
import type { ChosenPlugin, DeviceType } from './device.js'
import { FlrcError } from './errors.js'
import { denseBlockParameters } from './format/projections.js'
import type { ModelConfig, ModelSource, StorageDtype, StoredLevel } from './format/types.js'
import type {
  NativeBinding,
  NativeCalibrationOptions,
  NativeCalibrationResult,
  NativeChannelOptions,
  NativeChannelRanking,
  NativeConfig,
  NativeLevelInfo,
  NativeModel,
  NativeProgress,
  NativeRecovery,
  NativeRecoveryOptions,
  NativeSelfTextOptions,
  NativeStoredCalibration,
  NativeTask,
  NativeTensorEntry,
} from './native-types.js'
import { type Projection, projectionsOf, rankVector } from './projections.js'
import { RecoveryHandle } from './recover/handle.js'
import { type LevelSource, Session } from './session.js'
import { sequencesOf } from './text.js'
import { Tokenizer } from './tokenizer.js'

/** How far a long call has come: `done` of `total` units of its present stage. */
export interface Progress {
  stage: string
  done: number
  total: number
  /** Of a download. */
  unit?: 'bytes'
}

/** What every long call takes. */
export interface TaskOptions {
  /** Rejects the call with E_ABORTED within 100 ms. */
  signal?: AbortSignal
  onProgress?: (progress: Progress) => void
}

/** A level as it decodes. */
export interface ModelLevel extends StoredLevel {
  /** Block parameters read per token. */
  parameters: number
  /** Weight bytes read per generated token, embedding row, norms and lm_head included. */
  bytesPerToken: number
}

/** What a loaded model is besides its weights. */
export interface ModelParts {
  native: NativeModel
  source: ModelSource
  tokenizer: Tokenizer
  dtype: StorageDtype
  threads: number
  /** What computes; without it the CPU does. */
  plugin?: ChosenPlugin
  storage: 'pivoted' | 'plain'
  /** Stored / dense block parameters, as asked for; 1 for a dense model. */
  keep: number
  /** A model whose levels follow this one's; see `stacked`. It ends with it. */
  below?: LoadedModel
}

/**
 * Bytes of a position's key and value in one layer's cache: f32 for models held in f32, which no GPU takes; else fp16,
 * or bf16 on a GPU.
 */
export function cacheBytesPerPosition({ kvHeads, headDim }: ModelConfig, dtype: StorageDtype): number {
  return 2 * kvHeads * headDim * (dtype === 'f32' ? 4 : 2)
}

export function nativeConfig(config: ModelConfig): NativeConfig {
  const { bosTokenId: _bos, eosTokenIds: _eos, source: _source, ...rest } = config
  const { layers, intermediateSize } = config
  return {
    ...rest,
    intermediateSizes: Int32Array.from(config.intermediateSizes ?? Array(layers).fill(intermediateSize)),
    slidingWindow: Int32Array.from(config.slidingWindow),
    ropes: config.ropes.map(({ frequencies, scale }) => ({
      frequencies: Float64Array.from(frequencies),
      scale,
    })),
    layerRope: Int32Array.from(config.layerRope),
  }
}

/** Reads the weights of an opened source into native memory. */
export async function loadParts(
  source: ModelSource,
  options: TaskOptions & Pick<ModelParts, 'dtype' | 'threads' | 'plugin'>,
): Promise<ModelParts> {
  const { dtype, threads, plugin, signal, onProgress } = options
  const projections = projectionsOf(source.config)
  const levels = source.flrc
    ? source.flrc.levels.map((level) => rankVector(level.ranks, projections))
    : [Int32Array.from(projections, () => -1)]
  const abandoned = new AbortController()
  const reading = runTask(
    (addon, progress) =>
      addon.loadModel(
        {
          config: nativeConfig(source.config),
          tensors: [...source.tensors.values()],
          dtype,
          threads,
          levels,
          plugin: plugin?.file,
        },
        progress,
      ),
    [signal, abandoned.signal],
    releaseNative,
    checkedListener(onProgress),
  )
  // Made while other threads read the weights, for it takes about as long.
  let tokenizer: Tokenizer
  try {
    tokenizer = new Tokenizer(source.tokenizer, {
      file: source.path,
      eosTokenIds: source.config.eosTokenIds,
    })
  } catch (error) {
    reading.catch(() => {})
    abandoned.abort()
    throw error
  }
  const native = await reading
  const { storage = 'pivoted', keep = 1 } = source.flrc ?? {}
  return { native, source, tokenizer, dtype, threads, plugin, storage, keep }
}

function releaseNative(native: NativeModel): void {
  callNative((addon) => addon.releaseModel(native))
}

/** E_USAGE unless `model` is one; for what programs without types pass in. */
export function checkModel(model: unknown, name = 'the model'): asserts model is LoadedModel {
  if (!(model instanceof LoadedModel)) refuse(name, typeof model, 'what Model.load gives')
}

/**
 * One loaded model: the only holder of native handles. Weights are immutable, so calls may overlap; each
 * generation owns a session. The public class `Model` adds what is built on top.
 */
export class LoadedModel {
  readonly source: ModelSource
  readonly tokenizer: Tokenizer
  /** The type weights are held in. */
  readonly dtype: StorageDtype
  /** Compute threads, all cores where none were given. */
  readonly threads: number
  readonly plugin: ChosenPlugin | undefined
  readonly storage: 'pivoted' | 'plain'
  /** Stored / dense block parameters, as asked for; 1 for a dense model. */
  readonly keep: number
  readonly projections: readonly Projection[]
  /**
   * Falling budgets; level 0 is all that is stored, unless levels of another model follow. A dense model has the one
   * level of budget 1.
   */
  readonly levels: readonly ModelLevel[]
  /** Bytes of all weights held in memory. */
  readonly bytes: number
  /** Block parameters of the dense model, with all channels of its MLPs. */
  readonly denseParameters: number
  #native: NativeModel | undefined
  readonly #below: LoadedModel | undefined
  /** By level, where another model's follow. */
  readonly #sources: readonly LevelSource[]
  readonly #lifetime = new AbortController()

  constructor(parts: ModelParts) {
    this.source = parts.source
    this.tokenizer = parts.tokenizer
    this.dtype = parts.dtype
    this.threads = parts.threads
    this.plugin = parts.plugin
    this.storage = parts.storage
    this.keep = parts.keep
    this.#native = parts.native
    // Any number of calls may overlap, and each listens for the model's end.
    setMaxListeners(0, this.#lifetime.signal)
    const info = callNative((addon) => addon.modelInfo(parts.native))
    this.projections = projectionsOf(parts.source.config)
    this.bytes = info.bytes + (parts.below?.bytes ?? 0)
    this.denseParameters = denseBlockParameters(parts.source.config)
    const own = info.levels.map((level) => modelLevel(level, this.projections, this.denseParameters))
    const below = parts.below
    this.#below = below
    this.levels = [...own, ...(below?.levels ?? [])]
    const sourcesOf = (native: NativeModel, levels: readonly unknown[]) =>
      levels.map((_, level) => ({ model: native, level }))
    this.#sources = below ? [...sourcesOf(parts.native, own), ...sourcesOf(below.handle(), below.levels)] : []
  }

  get config(): ModelConfig {
    return this.source.config
  }

  /** Where it decodes. */
  get device(): DeviceType {
    return this.plugin === undefined ? 'cpu' : 'cuda'
  }

  /** Whether some levels have weights of their own, which others do not read. */
  get isStacked(): boolean {
    return this.#below !== undefined
  }

  get disposed(): boolean {
    return this.#native === undefined
  }

  /** Aborts what runs on this model (E_ABORTED) and frees the weights after the last of it. */
  dispose(): void {
    const native = this.#native
    if (native === undefined) return
    this.#native = undefined
    this.#lifetime.abort()
    releaseNative(native)
    this.#below?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose()
  }

  /** A generation's own state. E_DISPOSED after dispose. */
  createSession(): Session {
    const handle = this.handle()
    return new Session(
      callNative((addon) => addon.createSession(handle)),
      this.#lifetime.signal,
      this.#sources,
    )
  }

  /** Summed loss in nats of each window of `seqLen` tokens at `level`; seqLen - 1 losses a window. */
  windowLosses(tokens: Int32Array, seqLen: number, level: number, task: TaskOptions): Promise<Float64Array> {
    const below = this.#below
    const own = this.levels.length - (below?.levels.length ?? 0)
    if (below !== undefined && level >= own) return below.windowLosses(tokens, seqLen, level - own, task)
    return this.run(
      (addon, native, progress) => addon.windowLosses(native, tokens, seqLen, level, progress),
      task,
    )
  }

  /** Token windows of documents that the model writes itself, [windows, length]. */
  writeSelfText(options: NativeSelfTextOptions, task: TaskOptions): Promise<Int32Array> {
    return this.run((addon, native, progress) => addon.writeSelfText(native, options, progress), task)
  }

  calibrate(options: NativeCalibrationOptions, task: TaskOptions): Promise<CalibrationData> {
    return this.#calibrationData((addon, native, progress) => addon.calibrate(native, options, progress), task)
  }

  /** Ranks the channels of the MLPs by what dropping them costs; the caller's to release. */
  rankChannels(options: NativeChannelOptions, task: TaskOptions): Promise<NativeChannelRanking> {
    return this.run(
      (addon, native, progress) => addon.rankChannels(native, options, progress),
      task,
      (late) => callNative((addon) => addon.releaseChannels(late.channels)),
    )
  }

  readCalibration(stored: NativeStoredCalibration, task: TaskOptions): Promise<CalibrationData> {
    return this.#calibrationData((addon, native) => addon.readCalibration(native, stored), task)
  }

  async #calibrationData(
    start: (
      addon: NativeBinding,
      native: NativeModel,
      progress: NativeProgress | undefined,
    ) => NativeTask<NativeCalibrationResult>,
    task: TaskOptions,
  ): Promise<CalibrationData> {
    const { calibration, ...figures } = await this.run(start, task, (late) =>
      callNative((addon) => addon.releaseCalibration(late.calibration)),
    )
    return { figures, handle: new CalibrationHandle(calibration, this) }
  }

  /**
   * Takes the factors of a model cut from this one out to be trained towards it. `start` is released. The signal,
   * or this model's end, ends every call on the result.
   */
  async createRecovery(
    start: NativeModel,
    {
      windows,
      ...rest
    }: Omit<NativeRecoveryOptions, 'tokens' | 'lengths'> & { windows: readonly Int32Array[] },
    signal: AbortSignal | undefined,
  ): Promise<RecoveryHandle> {
    const options = { ...rest, ...sequencesOf(windows) }
    const release = (late: NativeRecovery) => callNative((addon) => addon.releaseRecovery(late))
    try {
      const native = await this.run(
        (addon, dense) => addon.createRecovery(start, dense, options),
        { signal },
        release,
      )
      return new RecoveryHandle(native, [signal, this.#lifetime.signal])
    } finally {
      releaseNative(start)
    }
  }

  /** Bytes of all tensors as they are written; of a model below, those of its projections. */
  get storedBytes(): number {
    const names = this.projections.map(({ name }) => name)
    const isProjection = ({ name }: NativeTensorEntry) =>
      names.some((projection) => name.startsWith(projection))
    const below = this.#below?.tensorEntries(false).filter(isProjection) ?? []
    return [...this.tensorEntries(false), ...below].reduce((sum, { byteLength }) => sum + byteLength, 0)
  }

  tensorEntries(dense: boolean): NativeTensorEntry[] {
    const native = this.handle()
    return callNative((addon) => addon.tensorEntries(native, dense))
  }

  /** Writes the named tensors' bytes at absolute offsets into an existing file, then syncs it. */
  writeTensors(
    file: string,
    names: string[],
    offsets: Float64Array,
    dense: boolean,
    task: TaskOptions,
  ): Promise<void> {
    return this.run(
      (addon, native, progress) => addon.writeTensors(native, file, names, offsets, dense, progress),
      task,
    )
  }

  /** Runs native work that ends when the caller's signal or this model's dispose says so. */
  private run<T>(
    start: (addon: NativeBinding, native: NativeModel, progress: NativeProgress | undefined) => NativeTask<T>,
    { signal, onProgress }: TaskOptions,
    releaseLate?: (result: T) => void,
  ): Promise<T> {
    const native = this.handle()
    const signals = [signal, this.#lifetime.signal]
    return runTask(
      (addon, progress) => start(addon, native, progress),
      signals,
      releaseLate,
      checkedListener(onProgress),
    )
  }

  /** E_DISPOSED after dispose. */
  assertUsable(): void {
    this.handle()
  }

  private handle(): NativeModel {
    if (this.#native === undefined) {
      throw new FlrcError('E_DISPOSED', 'the model was disposed; load it again')
    }
    return this.#native
  }
}

function modelLevel(info: NativeLevelInfo, projections: readonly Projection[], dense: number): ModelLevel {
  const ranks = projections.map(({ name }, index) => {
    const rank = info.ranks[index] ?? -1
    return [name, rank < 0 ? 'dense' : rank] as const
  })
  return {
    budget: info.parameters / dense,
    ranks: Object.fromEntries(ranks),
    parameters: info.parameters,
    bytesPerToken: info.bytesPerToken,
  }
}

/** What calibration found, and the native side's factors to build models from. */
export interface CalibrationData {
  figures: Omit<NativeCalibrationResult, 'calibration'>
  handle: CalibrationHandle
}
