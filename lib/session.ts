import { callNative, runTask, toFlrcError } from './binding.js'
import { FlrcError } from './errors.js'
import type {
  NativeBinding,
  NativeDraftOptions,
  NativeModel,
  NativeRound,
  NativeSampling,
  NativeSession,
  NativeStep,
  NativeTask,
} from './native-types.js'

/** One of several sessions' next step: what `decode` takes. */
export interface DecodeRequest {
  session: Session
  token: number
  level: number
  sampling: NativeSampling
}

/** Which model computes a level, and which of its own levels that is. */
export interface LevelSource {
  model: NativeModel
  level: number
}

/** One generation's state: the KV cache and the last position's logits. Ends with the model it belongs to. */
export class Session {
  #native: NativeSession | undefined
  readonly #modelLifetime: AbortSignal
  /** By level, where levels are computed by several models; the first's by default. */
  readonly #sources: readonly LevelSource[]
  #model: NativeModel | undefined

  constructor(
    native: NativeSession,
    modelLifetime: AbortSignal,
    sources: readonly LevelSource[] = [],
    model = sources[0]?.model,
  ) {
    this.#native = native
    this.#modelLifetime = modelLifetime
    this.#sources = sources
    this.#model = model
  }

  /** Appends tokens at `level` and keeps the last position's logits. Resolves to the new length. */
  prefill(tokens: Int32Array, level: number, signal?: AbortSignal): Promise<number> {
    const own = this.#levelOf(level)
    return this.#run((addon, native) => addon.prefill(native, tokens, own), signal)
  }

  /**
   * Appends tokens at `level`. Resolves to the natural log of the probability of each token given all before
   * it. The first one's comes from the kept logits. Where those are missing (a new session, or a rewound
   * one) begin with a token that only gives the others their context, and `from` 1: the result then has the
   * values of the tokens from that index on. E_NUMERIC for a logit that is not finite, E_CONTEXT.
   */
  logprobs(tokens: Int32Array, level: number, from = 0, signal?: AbortSignal): Promise<Float64Array> {
    const own = this.#levelOf(level)
    return this.#run((addon, native) => addon.logprobs(native, tokens, from, own), signal)
  }

  /** Samples from the kept logits. */
  sample(sampling: NativeSampling): NativeStep {
    const native = this.#handle()
    return callNative((addon) => addon.sample(native, sampling))
  }

  /** Appends one token at `level`, then samples the next. */
  decode(token: number, level: number, sampling: NativeSampling, signal?: AbortSignal): Promise<NativeStep> {
    const own = this.#levelOf(level)
    return this.#run((addon, native) => addon.decode(native, token, own, sampling), signal)
  }

  /** A round of self-speculation from `token`, which comes next; see `NativeBinding.speculate`. */
  speculate(
    token: number,
    options: NativeDraftOptions,
    sampling: NativeSampling,
    signal?: AbortSignal,
  ): Promise<NativeRound> {
    return this.#run((addon, native) => addon.speculate(native, token, options, sampling), signal)
  }

  /**
   * The `decode` of several sessions of one model, through one read of the weights per 16 of equal level; each
   * gets what it would get alone, bit by bit. A session whose logits are not finite has its E_NUMERIC in place of
   * a step; E_CONTEXT and E_ABORTED concern all.
   */
  static async decodeEach(
    requests: readonly DecodeRequest[],
    signal?: AbortSignal,
  ): Promise<(NativeStep | FlrcError)[]> {
    const placed = requests.map((request, index) => {
      const { session } = request
      return { ...request, index, native: session.#handle(), own: session.#levelOf(request.level) }
    })
    const outcomes: (NativeStep | FlrcError)[] = []
    // One native call takes sessions of one model.
    for (const model of new Set(requests.map(({ session }) => session.#model))) {
      const group = placed.filter(({ session }) => session.#model === model)
      const sessions = group.map(({ native }) => native)
      const tokens = Int32Array.from(group, ({ token }) => token)
      const levels = Int32Array.from(group, ({ own }) => own)
      const samplings = group.map(({ sampling }) => sampling)
      const lifetimes = new Set(group.map(({ session }) => session.#modelLifetime))
      const found = await runTask(
        (addon) => addon.decodeEach(sessions, tokens, levels, samplings),
        [signal, ...lifetimes],
      )
      for (const [at, { index }] of group.entries()) {
        const outcome = found[at] as NativeStep | Error
        outcomes[index] = outcome instanceof Error ? toFlrcError(outcome) : outcome
      }
    }
    return outcomes
  }

  /** Of each pair, KL(reference || session) in nats of what both hold likely next. E_NUMERIC, E_ABORTED. */
  static divergences(
    pairs: readonly { reference: Session; session: Session }[],
    signal?: AbortSignal,
  ): Promise<Float64Array> {
    const references = pairs.map(({ reference }) => reference.#handle())
    const sessions = pairs.map(({ session }) => session.#handle())
    const lifetimes = new Set(
      pairs.flatMap(({ reference, session }) => [reference.#modelLifetime, session.#modelLifetime]),
    )
    return runTask((addon) => addon.divergences(references, sessions), [signal, ...lifetimes])
  }

  /** Bytes of the cache and of working memory, on the device that decodes. */
  get bytes(): number {
    const native = this.#handle()
    return callNative((addon) => addon.sessionBytes(native))
  }

  /** A session of its own that begins with what this one holds, or with the first `length` positions of it. */
  async fork(length?: number, signal?: AbortSignal): Promise<Session> {
    const model = this.#model
    const native = await this.#run(
      (addon, own) => addon.forkSession(own, length),
      signal,
      (late) => callNative((addon) => addon.releaseSession(late)),
    )
    return new Session(native, this.#modelLifetime, this.#sources, model)
  }

  /** Lets working memory go until it is needed again. */
  rest(): void {
    const native = this.#handle()
    callNative((addon) => addon.restSession(native))
  }

  /** Forgets all positions from `length` on. */
  rewind(length: number): void {
    const native = this.#handle()
    callNative((addon) => addon.rewind(native, length))
  }

  /** Frees the cache once the native work on it has ended. */
  release(): void {
    const native = this.#native
    if (native === undefined) return
    this.#native = undefined
    callNative((addon) => addon.releaseSession(native))
  }

  /** What the level is to the model that computes it, which the session goes on with from here. */
  #levelOf(level: number): number {
    const source = this.#sources[level]
    if (source === undefined) return level
    if (source.model !== this.#model) {
      const native = this.#handle()
      callNative((addon) => addon.moveSession(native, source.model))
      this.#model = source.model
    }
    return source.level
  }

  #run<T>(
    start: (addon: NativeBinding, native: NativeSession) => NativeTask<T>,
    signal?: AbortSignal,
    releaseLate?: (result: T) => void,
  ): Promise<T> {
    const native = this.#handle()
    return runTask((addon) => start(addon, native), [signal, this.#modelLifetime], releaseLate)
  }

  #handle(): NativeSession {
    if (this.#native === undefined) throw new FlrcError('E_DISPOSED', 'the session has ended; start a new one')
    return this.#native
  }
}
