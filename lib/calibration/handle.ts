import { callNative, runTask } from '../binding.js'
import { checkedListener } from '../check.js'
import { FlrcError } from '../errors.js'
import type { LoadedModel, ModelParts, TaskOptions } from '../model.js'
import type {
  NativeBinding,
  NativeCalibration,
  NativeCuts,
  NativeFactorizeOptions,
  NativeProgress,
  NativeTask,
  NativeTensorEntry,
} from '../native-types.js'

/** The factors of every projection, at all ranks; models are cut from them. */
export class CalibrationHandle {
  readonly model: LoadedModel
  #native: NativeCalibration | undefined

  constructor(native: NativeCalibration, model: LoadedModel) {
    this.#native = native
    this.model = model
  }

  /** A new model of these ranks, which shares the dense parts of the calibrated one. */
  async factorize(options: NativeFactorizeOptions, keep: number, task: TaskOptions): Promise<ModelParts> {
    const native = await this.#run(
      (addon, calibration, progress) => addon.factorize(calibration, options, progress),
      task,
      (late) => callNative((addon) => addon.releaseModel(late)),
    )
    const { source, tokenizer, threads, plugin } = this.model
    return { native, source, tokenizer, dtype: options.dtype, threads, plugin, storage: options.storage, keep }
  }

  /** Summed loss in nats of windows of `seqLen` tokens, by rank, with that projection alone cut. */
  cutLosses(cuts: NativeCuts, tokens: Int32Array, seqLen: number, task: TaskOptions): Promise<Float64Array> {
    return this.#run(
      (addon, calibration, progress) => addon.cutLosses(calibration, cuts, tokens, seqLen, progress),
      task,
    )
  }

  /** All of it as tensors, layer by layer. */
  tensorEntries(): NativeTensorEntry[] {
    const calibration = this.#handle()
    return callNative((addon) => addon.calibrationEntries(calibration))
  }

  /** Writes the named tensors' bytes at absolute offsets into an existing file, then syncs it. */
  writeTensors(file: string, names: string[], offsets: Float64Array, task: TaskOptions): Promise<void> {
    return this.#run(
      (addon, calibration, progress) => addon.writeCalibration(calibration, file, names, offsets, progress),
      task,
    )
  }

  dispose(): void {
    const native = this.#native
    if (native === undefined) return
    this.#native = undefined
    callNative((addon) => addon.releaseCalibration(native))
  }

  #run<T>(
    start: (
      addon: NativeBinding,
      calibration: NativeCalibration,
      progress: NativeProgress | undefined,
    ) => NativeTask<T>,
    { signal, onProgress }: TaskOptions,
    releaseLate?: (result: T) => void,
  ): Promise<T> {
    const calibration = this.#handle()
    return runTask(
      (addon, progress) => start(addon, calibration, progress),
      [signal],
      releaseLate,
      checkedListener(onProgress),
    )
  }

  #handle(): NativeCalibration {
    if (this.#native !== undefined) return this.#native
    throw new FlrcError('E_DISPOSED', 'the calibration was disposed; calibrate again')
  }
}
