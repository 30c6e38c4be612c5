import { availableParallelism } from 'node:os'
import path from 'node:path'
import { checkObject, checkOneOf, checkWhole } from './check.js'
import { cardFigures, heldOutTable } from './checkpoint/card-figures.js'
import { prepareTarget } from './checkpoint/directory.js'
import type { CompressionPlan, HeldOutPerplexity } from './checkpoint/plan.js'
import { writeCheckpoint } from './checkpoint/write.js'
import { choosePlugin, type Device } from './device.js'
import { FlrcError } from './errors.js'
import { channelsLeft } from './format/channels.js'
import { headerOfChannels } from './format/flrc-header.js'
import type { StorageDtype, StoredLevel } from './format/types.js'
import { Chat, type ChatOptions } from './generate/chat.js'
import { type GenerateOptions, type Generation, generate } from './generate.js'
import { LoadedModel, loadParts, type ModelParts, type TaskOptions } from './model.js'
import { openModel } from './open-model.js'
import type { RecoveryReport } from './recover/report.js'
import { stacked } from './stacked.js'

/** What weights and factors may be held and stored in. */
export const dtypes: readonly StorageDtype[] = ['f32', 'bf16', 'int8', 'int4']

export interface LoadOptions extends TaskOptions {
  /**
   * Type that weights are held in: by default `bf16` for Hugging Face and GGUF models, and what it was written
   * in for an FLRC checkpoint.
   */
  dtype?: StorageDtype
  /** Where to decode: `auto` (the default) is a GPU where there is one and the CUDA plugin is installed. */
  device?: Device
  /** Compute threads; 0 (the default) is all cores. */
  threads?: number
  /**
   * An FLRC checkpoint of the same model, whose levels follow those of this one with weights of their own: a schedule
   * then falls from the dense model, say, to the checkpoint. On the CPU only.
   */
  below?: string
}

export interface SaveOptions extends TaskOptions {
  /** Replaces a checkpoint that is already there; without it that is E_EXISTS. */
  overwrite?: boolean
}

/** What a compression did and took. */
export interface CompressionReport {
  /** What was asked for; storedParameters / denseParameters is at most this. */
  keep: number
  storedParameters: number
  denseParameters: number
  /** Bytes of all tensors as they are written. */
  storedBytes: number
  /** Bytes of the source's weight files. */
  sourceBytes: number
  /** Rank of each factored projection at level 0. */
  ranks: Record<string, number>
  /** Projections left dense. */
  dense: string[]
  levels: StoredLevel[]
  /** Where channels of the MLPs were dropped: which share of all, and its estimated loss in nats over the text. */
  channels?: { dropped: number; loss: number }
  /** Channels that each layer's MLP keeps then. */
  intermediateSizes?: number[]
  /** Score of each projection, of the kind that was asked for. */
  scores: Record<string, number>
  seconds: {
    /** Ranking and dropping channels of the MLPs, where some were. */
    channels?: number
    calibrate: number
    factorize: number
    curves: number
    /** The sensitivity search of method `asvd` is in it. */
    allocate: number
    /** Looking for the keep of a target, where one was given. */
    solve?: number
    /** Where there was a recovery. */
    recover?: number
    /** Perplexity on windows held out, where there are any. */
    measure?: number
    total: number
  }
  /** On windows that were not calibrated on, where some were held out. */
  heldOut?: HeldOutPerplexity
  /** What a recovery did, where there was one. */
  recovery?: RecoveryReport
  /** Highest resident set of the process during the calibration. */
  peakBytes: number
  /** What the memory given allowed the calibration to do at once. */
  atOnce: { sequences: number; projections: number; oneInput: boolean }
}

/** A loaded model, dense or compressed. */
export class Model extends LoadedModel {
  /** Why each rank is what it is; undefined for a model that was loaded. */
  readonly plan: CompressionPlan | undefined
  /** What the compression did and took; undefined for a model that was loaded. */
  readonly report: CompressionReport | undefined

  constructor(
    parts: ModelParts,
    made?: { plan: CompressionPlan } & Pick<CompressionReport, 'seconds' | 'peakBytes' | 'atOnce'>,
  ) {
    super(parts)
    this.plan = made?.plan
    this.report = made && this.#report(made)
  }

  /**
   * Loads a Hugging Face directory, a .gguf file, an FLRC directory, or (where nothing is at that path) a model of the
   * hub: `org/name`, or `org/name/file.gguf`, and after it `@revision` if wanted. Errors: E_NOT_FOUND, E_HUB,
   * E_MODEL_FORMAT, E_UNSUPPORTED_ARCH, E_UNSUPPORTED_TYPE, E_TOKENIZER, E_VERSION, E_DEVICE, E_OUT_OF_MEMORY,
   * E_BINDING, E_IO, E_USAGE, E_ABORTED.
   */
  static async load(model: string, options: LoadOptions = {}): Promise<Model> {
    checkObject('the second argument', options, "options, such as { device: 'cpu' }")
    const { below, ...own } = options
    if (below === undefined) return new Model(await partsOf(model, own))
    // A cache goes from one model to another on the CPU only.
    const device = own.device === undefined || own.device === 'auto' ? 'cpu' : own.device
    const lower = new Model(await partsOf(below, { ...own, device, dtype: undefined }))
    try {
      return new Model(stacked(await partsOf(model, { ...own, device }), lower))
    } catch (error) {
      lower.dispose()
      throw error
    }
  }

  /** Continues a text, or token ids, token by token; see `GenerateOptions` and `Piece`. */
  generate(prompt: string | readonly number[] | Int32Array, options?: GenerateOptions): Generation {
    return generate(this, prompt, options)
  }

  /** Starts a conversation in the model's chat template. */
  chat(options?: ChatOptions): Chat {
    return new Chat(this, options)
  }

  /**
   * Writes a compressed model as an FLRC checkpoint: a whole directory or nothing. Errors: E_EXISTS
   * (also for the model that was compressed, whatever `overwrite` says), E_IO (disk full, permissions), E_ABORTED,
   * E_DISPOSED, and E_USAGE for a model that was loaded.
   */
  async save(directory: string, options: SaveOptions = {}): Promise<void> {
    checkObject('the second argument', options, 'options, such as { overwrite: true }')
    const { overwrite, signal, onProgress } = options
    const plan = this.plan
    if (plan === undefined) {
      throw new FlrcError(
        'E_USAGE',
        'only what compress returns can be saved; copy an FLRC directory, or write any model with exportModel',
      )
    }
    const { source, dtype, storage, keep, report, projections } = this
    await prepareTarget(directory, { overwrite, source: source.path })
    const levels = storedLevels(this)
    const budgets = levels.map(({ budget }) => budget)
    await writeCheckpoint(
      directory,
      {
        header: {
          ...headerOfChannels(source.config),
          keep,
          levels,
          dtype,
          storage,
          source: source.config.source,
        },
        plan,
        run: report && {
          seconds: report.seconds,
          peakBytes: report.peakBytes,
          threads: this.threads || availableParallelism(),
        },
        card: {
          name: path.basename(path.resolve(directory)),
          channels: channelsLeft(source.config),
          baseModel: source.hub?.id,
          license: await source.license(),
          measured: plan.heldOut && heldOutTable(plan.heldOut, { bytes: this.storedBytes, budgets }),
          figures: await cardFigures({ projections, levels, storage, scores: plan.scores }),
        },
        tokenizer: source.tokenizer(),
        generation: source.generation,
        entries: this.tensorEntries(false),
        writeTensors: (file, names, offsets) =>
          this.writeTensors(file, names, offsets, false, { signal, onProgress }),
      },
      { overwrite, source: source.path, signal },
    )
  }

  #report({
    plan,
    ...took
  }: { plan: CompressionPlan } & Pick<
    CompressionReport,
    'seconds' | 'peakBytes' | 'atOnce'
  >): CompressionReport {
    const ranks = Object.entries(this.levels[0]?.ranks ?? {})
    return {
      keep: this.keep,
      storedParameters: this.levels[0]?.parameters ?? 0,
      denseParameters: this.denseParameters,
      storedBytes: this.storedBytes,
      sourceBytes: this.source.fileBytes,
      ranks: Object.fromEntries(ranks.filter((entry): entry is [string, number] => entry[1] !== 'dense')),
      dense: ranks.filter(([, rank]) => rank === 'dense').map(([name]) => name),
      levels: storedLevels(this),
      ...(this.config.intermediateSizes ? { intermediateSizes: this.config.intermediateSizes } : {}),
      scores: plan.scores,
      ...took,
      ...(plan.channels ? { channels: plan.channels } : {}),
      ...(plan.heldOut ? { heldOut: plan.heldOut } : {}),
      ...(plan.recovery ? { recovery: plan.recovery } : {}),
    }
  }
}

function storedLevels(model: LoadedModel): StoredLevel[] {
  return model.levels.map(({ budget, ranks }) => ({ budget, ranks }))
}

async function partsOf(model: string, options: Omit<LoadOptions, 'below'>): Promise<ModelParts> {
  const { dtype, device = 'auto', threads = 0, signal, onProgress } = options
  checkOneOf('device', device, ['auto', 'cpu', 'cuda'])
  if (dtype !== undefined) checkOneOf('dtype', dtype, dtypes)
  checkWhole('threads', threads, 0)
  const source = await openModel(model, { signal, onProgress })
  const held = dtype ?? source.flrc?.dtype ?? 'bf16'
  const plugin = await choosePlugin(device, held, signal)
  return loadParts(source, { dtype: held, threads, plugin, signal, onProgress })
}
