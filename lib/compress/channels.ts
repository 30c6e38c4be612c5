import { tmpdir } from 'node:os'
import { type ChannelShares, chooseChannels, shareChannels } from '../allocate/channels.js'
import { levelBudgets } from '../allocate.js'
import { callNative, runTask } from '../binding.js'
import { type CalibrateOptions, type Calibration, defaultMemory, rankingShrinkage } from '../calibrate.js'
import { checkedListener } from '../check.js'
import { FlrcError } from '../errors.js'
import { LoadedModel, type TaskOptions } from '../model.js'
import type { NativeChannelRanking } from '../native-types.js'
import { sequencesOf } from '../text.js'
import type { AllocateOptions } from './options.js'
import { knownOf } from './ranks.js'
import { atKeep, solveKeep } from './solve.js'

/** Decides how many channels each layer keeps, by what dropping its k cheapest groups costs, k = 0, 1, .. */
export type ChooseWidths = (costs: readonly Float64Array[], group: number) => ChannelShares

/** Channels that are dropped at once: what products, and groups of int4, are made for, or less in a small model. */
export function channelGroup(channels: number): number {
  return [64, 32, 16, 8].find((group) => group * 16 <= channels) ?? 1
}

/** A share of all channels, wherever they cost least. */
export function byShare({ config }: LoadedModel, share: number): ChooseWidths {
  return (costs, group) => shareChannels(costs, config.intermediateSize, group, share)
}

/**
 * As many as lose least together with the ranks that are cut afterwards, by the curves of a calibration of the whole
 * model. Where a target decides keep, at the keep that it leads to with all channels. Errors as of `solveKeep`.
 */
export async function byCurves(
  calibration: Calibration,
  options: AllocateOptions & TaskOptions,
): Promise<ChooseWidths> {
  if (!calibration.hasCurves) {
    throw new FlrcError(
      'E_USAGE',
      'dropChannels auto wants truncation curves, which this calibration has not; calibrate with curves, or give a share',
    )
  }
  const keep = options.keep ?? (await solveKeep(calibration, await knownOf(calibration, options), options))
  const { levels, levelWeights } = options.keep === undefined ? atKeep(options, keep) : options
  const { storage = 'pivoted', dense: allowDense = true } = options
  const { curves, model } = calibration
  return (costs, group) =>
    chooseChannels({
      ...{ projections: model.projections, curves, costs, group, storage, levelWeights, allowDense },
      budgets: levelBudgets(keep, levels),
    })
}

export interface NarrowedModel {
  /** Dense, with fewer channels in its MLPs; the caller's to dispose. */
  model: LoadedModel
  /** Share of all channels that were dropped. */
  share: number
  /** What that costs by the ranking's estimate, in nats over the text. */
  loss: number
}

/**
 * The model without those channels of its MLPs that cost least over the windows, once the columns of down that stay are
 * refitted (docs/method.md). Undefined where none is to go. E_NUMERIC, E_IO, E_DISPOSED, E_ABORTED.
 */
export async function withoutChannels(
  model: LoadedModel,
  windows: readonly Int32Array[],
  choose: ChooseWidths,
  options: Pick<CalibrateOptions, 'labels' | 'seed' | 'shrinkage' | 'memory'> & TaskOptions,
): Promise<NarrowedModel | undefined> {
  const { layers, intermediateSize: channels } = model.config
  const group = channelGroup(channels)
  const { labels = 'model', seed = 0, memory = defaultMemory() } = options
  const ranked = await model.rankChannels(
    {
      ...sequencesOf(windows),
      ...{ labels, seed, memory, group },
      scratch: tmpdir(),
      jitter: 1e-8,
      shrinkage: rankingShrinkage(options),
    },
    options,
  )
  try {
    const { widths, loss } = choose(ranked.costs, group)
    const left = widths.reduce((sum, width) => sum + width, 0)
    if (left === channels * layers) return undefined
    return {
      model: await narrowed(model, ranked, widths, options),
      share: 1 - left / (channels * layers),
      loss,
    }
  } finally {
    callNative((addon) => addon.releaseChannels(ranked.channels))
  }
}

async function narrowed(
  whole: LoadedModel,
  { channels }: NativeChannelRanking,
  widths: number[],
  { signal, onProgress }: TaskOptions,
): Promise<LoadedModel> {
  const native = await runTask(
    (addon, progress) => addon.dropChannels(channels, Int32Array.from(widths), progress),
    [signal],
    (late) => callNative((addon) => addon.releaseModel(late)),
    checkedListener(onProgress),
  )
  const { tokenizer, dtype, threads, plugin, storage, keep } = whole
  const config = { ...whole.config, intermediateSizes: widths }
  return new LoadedModel({
    ...{ native, tokenizer, dtype, threads, plugin, storage, keep },
    source: { ...whole.source, config },
  })
}
