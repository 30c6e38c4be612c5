/**
 * The whole surface of the native addon: everything TypeScript may call. Weights, activations and logits stay
 * on the other side; handles, token ids, scalars, rank vectors, scores and curves cross.
 */
import type { ModelConfig, StorageDtype, TensorSource } from './format/types.js'

declare const modelBrand: unique symbol
declare const sessionBrand: unique symbol
declare const calibrationBrand: unique symbol
declare const channelsBrand: unique symbol
declare const recoveryBrand: unique symbol
declare const lockBrand: unique symbol

/** Handles. Native memory is freed on release, or when JavaScript forgets the handle. */
export interface NativeModel {
  readonly [modelBrand]: true
}
export interface NativeSession {
  readonly [sessionBrand]: true
}
export interface NativeCalibration {
  readonly [calibrationBrand]: true
}
export interface NativeChannels {
  readonly [channelsBrand]: true
}
export interface NativeRecovery {
  readonly [recoveryBrand]: true
}
export interface NativeFileLock {
  readonly [lockBrand]: true
}

/**
 * Native work under way. `promise` settles once the work has ended; failures are plain Errors with `code`,
 * `file` and `tensor` (binding.ts turns them into FlrcErrors). `cancel` may be called at any time; the work
 * then ends at its next check with E_ABORTED.
 */
export interface NativeTask<T> {
  promise: Promise<T>
  cancel(): void
}

/** Called on the JavaScript thread, at most about 20 times a second. */
export type NativeProgress = (stage: string, done: number, total: number) => void

/** What of a ModelConfig the native side needs, its lists as typed arrays. */
export interface NativeConfig
  extends Omit<
    ModelConfig,
    'intermediateSizes' | 'slidingWindow' | 'ropes' | 'layerRope' | 'bosTokenId' | 'eosTokenIds' | 'source'
  > {
  /** [layers], intermediateSize where no channel was dropped. */
  intermediateSizes: Int32Array
  slidingWindow: Int32Array
  ropes: { frequencies: Float64Array; scale: number }[]
  layerRope: Int32Array
}

export interface NativeModelSpec {
  config: NativeConfig
  /** By Hugging Face name; factored projections by `NAME.P.b`, `.C.b`, `.I.b` or `NAME.U`, `NAME.V`. */
  tensors: TensorSource[]
  dtype: StorageDtype
  /** Compute threads in all; 0 is all cores. */
  threads: number
  /** Ranks per level (falling budgets) and projection in the order of `projections`; -1 is dense. */
  levels: Int32Array[]
  /** Absolute path of the plugin that computes; without it the CPU does. */
  plugin?: string
}

/** A plugin that opened, and whether it can run here. */
export interface NativePlugin {
  name: string
  /** 0 where it cannot run; of several plugins the highest is the best. */
  score: number
  /** What keeps it from running. */
  missing: string
  /** The device as its maker calls it. */
  device: string
  /** Types that it takes weights in. */
  dtypes: Record<StorageDtype, boolean>
}

export interface NativeModelInfo {
  /** Names without `.weight`, layer by layer: q, k, v, o, gate, up, down. */
  projections: string[]
  /** Per projection [out, in]. */
  shapes: [number, number][]
  /** Bytes of all weights held in memory. */
  bytes: number
  levels: NativeLevelInfo[]
}

export interface NativeLevelInfo {
  /** Block parameters read per token. */
  parameters: number
  /** Weight bytes read per generated token, embeddings row, norms and lm_head included. */
  bytesPerToken: number
  /** Per projection, -1 dense. */
  ranks: Int32Array
}

export interface NativeSampling {
  /** 0 is greedy. */
  temperature: number
  /** 0 is off. */
  topK: number
  /** 1 is off. */
  topP: number
  /** 0 is off. */
  minP: number
  seed: number
  /** Counts the draws of this seed, so that a run can be repeated. */
  draw: number
  /** Not for `speculate`. */
  penalties?: NativePenalties
  /** How many of the likeliest tokens the step names; none by default. Not for `speculate`. */
  alternatives?: number
}

export interface NativeTokenLogprob {
  tokenId: number
  logprob: number
}

/**
 * What becomes of the logits of tokens, named once each, before a draw: divided by the factor where above zero and
 * multiplied by it elsewhere, less the offset. Logprob and entropy stay those before.
 */
export interface NativePenalties {
  tokens: Int32Array
  factors: Float64Array
  offsets: Float64Array
}

export interface NativeStep {
  tokenId: number
  /** Natural log of the token's probability under the model (before temperature). */
  logprob: number
  /** Entropy of the distribution in nats. */
  entropy: number
  /** The likeliest first, where the sampling asks for them. */
  likeliest?: NativeTokenLogprob[]
}

/** How a round of self-speculation drafts. */
export interface NativeDraftOptions {
  level: number
  /** At most, 1 to 15. */
  tokens: number
  /** Drafting ends once the probability that the draft gives to all it wrote falls below this. */
  least: number
  /** Tokens after which nothing is drafted. */
  ends: Int32Array
}

export interface NativeRound {
  /** The drafts accepted and one more token, as level 0 gives them. */
  steps: NativeStep[]
  drafted: number
  draftSeconds: number
}

/** What is given of a document that the model writes. */
export interface NativeDocumentForm {
  /** One of them, drawn, begins each document; none where empty. */
  starts: Int32Array
  /** The tokens before each stretch that the model writes. */
  turns: Int32Array[]
  /** The tokens after the last stretch. */
  ending: Int32Array
  /** Tokens of a stretch that is not the last, at most. */
  longest: number
}

export interface NativeSelfTextOptions {
  /** Window i is of form i modulo their number. */
  forms: NativeDocumentForm[]
  /** Tokens that end a stretch. */
  ends: Int32Array
  windows: number
  /** Tokens in a window. */
  length: number
  seed: number
  temperature: number
  topP: number
  /** Bytes that KV caches may take. */
  memory: number
}

export interface NativeCalibrationOptions {
  /** Token ids of all windows, one after another; each window is its own sequence. */
  tokens: Int32Array
  /** Tokens in each window; sum is tokens.length, each at least 2. */
  lengths: Int32Array
  labels: 'model' | 'data'
  seed: number
  whitening: 'none' | 'scaled' | 'input' | 'two-sided'
  /** Compute truncation curves (needs a second visit of each layer's tokens). */
  curves: boolean
  jitter: number
  shrinkage: { inputs: number; gradients: number }
  /** Bytes that calibration may hold beside the model's weights; the rest goes to files in `scratch`. */
  memory: number
  scratch: string
  /** Randomised factors of this many ranks instead of all ranks; 0 is all. */
  randomisedRank: number
  /** Keep A of every input, so that `factorize` can round to int8 and int4 against it. */
  keepInputMoments: boolean
  /** Folder, of this calibration alone, where finished layers are kept and from which it goes on. */
  state?: string
  /** Of that folder; held until nothing is written there any more. */
  lock?: NativeFileLock
}

/** One projection cut in several ways, one at a time. */
export interface NativeCuts {
  /** Index in the model's order. */
  projection: number
  ranks: Int32Array
  storage: 'pivoted' | 'plain'
}

export interface NativeCalibrationResult {
  calibration: NativeCalibration
  /** Per projection, in the model's order. */
  scores: {
    /** sum over sequences of sum (G o W)^2 */
    fisher: Float64Array
    /** sum over sequences of sum G^2 */
    gradient: Float64Array
    /** sum over sequences of sum |G o W| */
    taylor: Float64Array
  }
  /** Per projection: singular values of the whitened matrix, falling. */
  singular: Float64Array[]
  /** Per projection: E(r) for r = 0..rank in nats over the whole text; empty without `curves`. */
  curves: Float64Array[]
  /** Tokens that carried a loss, and their mean loss in nats under the text's own next token. */
  lossTokens: number
  meanLoss: number
  seconds: { forward: number; backward: number; moments: number; factorize: number; curves: number }
  /** Highest resident set of the process during the call. */
  peakBytes: number
  /**
   * What the memory allowed: sequences passed and projections factorised at once, and whether the moments of one
   * input (q k v, o, gate up, down) were held at a time instead of a layer's.
   */
  atOnce: { sequences: number; projections: number; oneInput: boolean }
}

/** What a stored calibration consists of. */
export interface NativeStoredCalibration {
  /** As `calibrationEntries` names them. */
  tensors: TensorSource[]
  curves: boolean
  inputMoments: boolean
  /** Bytes that cutting may hold. */
  memory: number
}

export interface NativeFactorizeOptions {
  /** Ranks per level, level 0 first, in the order of `projections`; -1 leaves the projection dense. */
  levels: Int32Array[]
  storage: 'pivoted' | 'plain'
  dtype: StorageDtype
}

/** As those of a calibration of that name, and: */
export interface NativeChannelOptions
  extends Pick<
    NativeCalibrationOptions,
    'tokens' | 'lengths' | 'labels' | 'seed' | 'jitter' | 'shrinkage' | 'memory' | 'scratch'
  > {
  /** Channels are dropped in groups of so many. */
  group: number
}

/** In which order the MLPs of a model can do without their channels. */
export interface NativeChannelRanking {
  channels: NativeChannels
  /**
   * Per layer: the loss in nats over the whole text that dropping the k cheapest groups is estimated to add once the
   * other columns of down are refitted, k = 0, 1, .. as far as at least a quarter of the channels, and one, is left.
   * Rises from 0.
   */
  costs: Float64Array[]
  /** Tokens that carried a loss, and their mean loss in nats under the text's own next token. */
  lossTokens: number
  meanLoss: number
  seconds: number
}

export interface NativeRecoveryOptions {
  /** Token ids of all windows, one after another, and tokens in each. */
  tokens: Int32Array
  lengths: Int32Array
  /** Type that the factors will be stored in. */
  dtype: StorageDtype
  /** Bytes that activations and the dense model's states may hold in memory, and where the latter go beyond it. */
  memory: number
  scratch: string
}

export interface NativeRecoveryStep {
  /** The batch: indices of windows, none twice. */
  windows: Int32Array
  level: number
  beta1: number
  beta2: number
  /** Longest step, relative to the root mean square of each row of the factors. */
  rate: number
  /** Most by which the step may change the batch's KL to first order, relative to it. */
  change: number
}

export interface NativeRecoveryFigures {
  /** Mean KL(dense || compressed) a token, nats. */
  kl: number
  /** Mean next-token loss of the compressed model, nats. */
  loss: number
  /** Length of the step; 0 for evaluations. */
  rate: number
}

/** One tensor as it will be stored. */
export interface NativeTensorEntry {
  name: string
  /** safetensors dtype */
  type: 'F64' | 'F32' | 'BF16' | 'I32' | 'I8' | 'U8'
  shape: number[]
  byteLength: number
}

export interface NativeBinding {
  /** Instruction set in use, cores available, BLAS in use. */
  info(): { target: string; cores: number; blas: string }
  /** Cancels all work of the process, waits until its next check, and starts no more: for a process that exits. */
  endWork(): void
  /** Bytes per second that threads (0 is all cores) together read from a buffer of so many bytes. */
  readBandwidth(bytes: number, threads: number): NativeTask<number>

  /** Opens a plugin by its absolute path. E_DEVICE where it is none of this version. */
  probePlugin(file: string): NativeTask<NativePlugin>
  /** Bytes per second that a plugin's device reads from its memory. */
  pluginBandwidth(file: string): NativeTask<number>
  /**
   * Makes a file that this handle alone holds, of all processes, until it is released or its process ends; null where
   * another does. E_IO. Releasing it removes the file.
   */
  lockFile(path: string): NativeFileLock | null
  releaseLock(lock: NativeFileLock): void
  /** What a user should know of how a plugin computes, found out so far; empty where there is nothing. */
  pluginNotes(file: string): string
  loadModel(spec: NativeModelSpec, onProgress?: NativeProgress): NativeTask<NativeModel>
  modelInfo(model: NativeModel): NativeModelInfo
  /** Frees the weights once the last session and task that use them end; the handle is dead at once. */
  releaseModel(model: NativeModel): void

  /** A generation's own state: KV cache (grows up to the context length) and logits. */
  createSession(model: NativeModel): NativeSession
  /** Appends tokens at `level` and keeps the last position's logits. Resolves to the new length. */
  prefill(session: NativeSession, tokens: Int32Array, level: number): NativeTask<number>
  /**
   * Appends tokens as `prefill` does. Resolves to the natural log of the probability of each token from index
   * `from` on, given all before it; with `from` 0 the first one's comes from the kept logits, which must be
   * there (a new session has none, and `rewind` drops them). A non-finite logit is E_NUMERIC.
   */
  logprobs(session: NativeSession, tokens: Int32Array, from: number, level: number): NativeTask<Float64Array>
  /** Samples from the kept logits. */
  sample(session: NativeSession, sampling: NativeSampling): NativeStep
  /** Appends one token at `level`, then samples the next. */
  decode(session: NativeSession, token: number, level: number, sampling: NativeSampling): NativeTask<NativeStep>
  /**
   * Drafts on from `token` at a lower level, verifies at level 0 in one pass, and keeps what the rejection rule
   * accepts and one token more. Draw `sampling.draw` + i is step i's. The cache then holds `token` and the accepted
   * drafts, all at level 0.
   */
  speculate(
    session: NativeSession,
    token: number,
    options: NativeDraftOptions,
    sampling: NativeSampling,
  ): NativeTask<NativeRound>
  /**
   * Appends one token to each of several sessions of one model, at its level, then samples the next of each: each
   * as `decode` alone would. A session whose logits are not finite has its error (a plain Error with `code`) in
   * place of a step; what concerns all rejects.
   */
  decodeEach(
    sessions: readonly NativeSession[],
    tokens: Int32Array,
    levels: Int32Array,
    samplings: readonly NativeSampling[],
  ): NativeTask<(NativeStep | Error)[]>
  /**
   * A session of its own that begins with what this one holds: cache and logits; or with the first `length` positions,
   * without logits where that is not all.
   */
  forkSession(session: NativeSession, length?: number): NativeTask<NativeSession>
  /** Lets a session's working memory go until it decodes again; keeps it where a call on it is under way. */
  restSession(session: NativeSession): void
  /** What a session's cache and working memory take; of the device's memory where it decodes on one. */
  sessionBytes(session: NativeSession): number
  /** Goes on with another model's weights, on what the session holds; both on the CPU, with caches of one shape. */
  moveSession(session: NativeSession, model: NativeModel): void
  /** Per pair KL(reference || session), nats, of the distributions that their kept logits give. */
  divergences(
    references: readonly NativeSession[],
    sessions: readonly NativeSession[],
  ): NativeTask<Float64Array>
  /** Forgets all positions from `length` on. */
  rewind(session: NativeSession, length: number): void
  releaseSession(session: NativeSession): void

  /**
   * Windows of seqLen tokens, seqLen - 1 losses each, fp32 logits. Resolves to the summed loss in nats of
   * each window. A non-finite logit is E_NUMERIC.
   */
  windowLosses(
    model: NativeModel,
    tokens: Int32Array,
    seqLen: number,
    level: number,
    onProgress?: NativeProgress,
  ): NativeTask<Float64Array>

  /** Lets the model write token windows [windows, length] of documents, each from an empty context. */
  writeSelfText(
    model: NativeModel,
    options: NativeSelfTextOptions,
    onProgress?: NativeProgress,
  ): NativeTask<Int32Array>

  /** Bytes that a calibration would hold beside the weights: at least, and where nothing has to wait or spill. */
  calibrationMemory(
    config: NativeConfig,
    options: {
      whitening: NativeCalibrationOptions['whitening']
      inputMoments: boolean
      shrinks: boolean
      sequences: number
      longest: number
      threads: number
    },
  ): { least: number; everything: number }
  calibrate(
    model: NativeModel,
    options: NativeCalibrationOptions,
    onProgress?: NativeProgress,
  ): NativeTask<NativeCalibrationResult>
  /** A new model that shares the dense parts of the calibrated one. */
  factorize(
    calibration: NativeCalibration,
    options: NativeFactorizeOptions,
    onProgress?: NativeProgress,
  ): NativeTask<NativeModel>
  /** Summed loss in nats of windows of `seqLen` tokens with one projection cut to each of the ranks, all else dense. */
  cutLosses(
    calibration: NativeCalibration,
    cuts: NativeCuts,
    tokens: Int32Array,
    seqLen: number,
    onProgress?: NativeProgress,
  ): NativeTask<Float64Array>
  /** Tensors as `writeCalibration` stores them. */
  calibrationEntries(calibration: NativeCalibration): NativeTensorEntry[]
  /** As `writeTensors`. */
  writeCalibration(
    calibration: NativeCalibration,
    file: string,
    names: string[],
    offsets: Float64Array,
    onProgress?: NativeProgress,
  ): NativeTask<void>
  /** A calibration of this model whose factors and moments stay in their files. Has no losses, times and limits. */
  readCalibration(model: NativeModel, stored: NativeStoredCalibration): NativeTask<NativeCalibrationResult>
  releaseCalibration(calibration: NativeCalibration): void

  /** As `calibrationMemory`, of `rankChannels`. */
  channelMemory(
    config: NativeConfig,
    options: { sequences: number; longest: number; threads: number },
  ): { least: number; everything: number }
  /** Ranks the channels of a dense model's MLPs (a row of gate and up, a column of down). */
  rankChannels(
    model: NativeModel,
    options: NativeChannelOptions,
    onProgress?: NativeProgress,
  ): NativeTask<NativeChannelRanking>
  /** Which channels a layer keeps that keeps so many, rising. */
  keptChannels(channels: NativeChannels, layer: number, width: number): Int32Array
  /**
   * A dense model with so many channels in each layer, whole groups fewer than the ranked one has, down refitted by
   * least squares. It shares all else with the ranked model.
   */
  dropChannels(
    channels: NativeChannels,
    widths: Int32Array,
    onProgress?: NativeProgress,
  ): NativeTask<NativeModel>
  releaseChannels(channels: NativeChannels): void

  /** Takes the factors of `start` out to be trained towards the dense model; both may be released. */
  createRecovery(
    start: NativeModel,
    dense: NativeModel,
    options: NativeRecoveryOptions,
  ): NativeTask<NativeRecovery>
  /** One step of Adam at one level; the figures are those of the batch before it. E_NUMERIC if not finite. */
  recoveryStep(recovery: NativeRecovery, step: NativeRecoveryStep): NativeTask<NativeRecoveryFigures>
  evaluateRecovery(
    recovery: NativeRecovery,
    windows: Int32Array,
    level: number,
  ): NativeTask<NativeRecoveryFigures>
  /** Remembers the factors as they are as the ones to finish with. */
  keepRecovery(recovery: NativeRecovery): NativeTask<void>
  /** The model of the factors kept. */
  finishRecovery(recovery: NativeRecovery): NativeTask<NativeModel>
  /**
   * The whole state and a note to a file, which is made or replaced, and back: resolves to the note. The lock is held
   * until nothing is written any more.
   */
  saveRecovery(recovery: NativeRecovery, file: string, note: string, lock: NativeFileLock): NativeTask<void>
  loadRecovery(recovery: NativeRecovery, file: string): NativeTask<string>
  releaseRecovery(recovery: NativeRecovery): void

  /** Tensors as `writeTensors` stores them; `dense` multiplies factors out (export). */
  tensorEntries(model: NativeModel, dense: boolean): NativeTensorEntry[]
  /** Writes the named tensors' bytes at these absolute offsets into an existing file, then fsyncs it. */
  writeTensors(
    model: NativeModel,
    file: string,
    names: string[],
    offsets: Float64Array,
    dense: boolean,
    onProgress?: NativeProgress,
  ): NativeTask<void>
}
