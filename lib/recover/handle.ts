import { callNative, runTask } from '../binding.js'
import { FlrcError } from '../errors.js'
import type {
  NativeBinding,
  NativeFileLock,
  NativeModel,
  NativeRecovery,
  NativeRecoveryFigures,
  NativeRecoveryStep,
  NativeTask,
} from '../native-types.js'

/** A recovery under way on the native side. Calls go one after another; each takes the signal it was made with. */
export class RecoveryHandle {
  #native: NativeRecovery | undefined
  readonly #signals: readonly (AbortSignal | undefined)[]

  constructor(native: NativeRecovery, signals: readonly (AbortSignal | undefined)[]) {
    this.#native = native
    this.#signals = signals
  }

  /** One step of Adam; the figures are those of the batch before it. */
  step(step: NativeRecoveryStep): Promise<NativeRecoveryFigures> {
    return this.#run((addon, native) => addon.recoveryStep(native, step))
  }

  evaluate(windows: Int32Array, level: number): Promise<NativeRecoveryFigures> {
    return this.#run((addon, native) => addon.evaluateRecovery(native, windows, level))
  }

  /** Remembers the factors as they are as the ones to finish with. */
  keep(): Promise<void> {
    return this.#run((addon, native) => addon.keepRecovery(native))
  }

  /** A model of the factors that were kept last. */
  finish(): Promise<NativeModel> {
    const release = (late: NativeModel) => callNative((addon) => addon.releaseModel(late))
    return this.#run((addon, native) => addon.finishRecovery(native), release)
  }

  /** The lock is held until nothing is written any more, even where the call is aborted. */
  save(file: string, note: string, lock: NativeFileLock): Promise<void> {
    return this.#run((addon, native) => addon.saveRecovery(native, file, note, lock))
  }

  /** Resolves to the note. */
  load(file: string): Promise<string> {
    return this.#run((addon, native) => addon.loadRecovery(native, file))
  }

  dispose(): void {
    const native = this.#native
    if (native === undefined) return
    this.#native = undefined
    callNative((addon) => addon.releaseRecovery(native))
  }

  #run<T>(
    start: (addon: NativeBinding, native: NativeRecovery) => NativeTask<T>,
    releaseLate?: (result: T) => void,
  ): Promise<T> {
    const native = this.#native
    if (native === undefined) throw new FlrcError('E_DISPOSED', 'the recovery has ended; start a new one')
    return runTask((addon) => start(addon, native), this.#signals, releaseLate)
  }
}
