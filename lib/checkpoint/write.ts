import { join } from 'node:path'
import type { HeaderEntry } from '../format/safetensors.js'
import type { FlrcHeader, TokenizerSource } from '../format/types.js'
import { type CardContents, modelCard } from './card.js'
import { type DirectoryOptions, writeDirectory } from './directory.js'
import { createFile } from './io.js'
import { type CompressionPlan, planJson } from './plan.js'
import { type WeightsOptions, type WriteTensors, type WrittenWeights, writeWeights } from './weights.js'

/** What every model directory holds. */
export interface ModelContents {
  tokenizer: TokenizerSource
  /** generation_config.json, where the source has one. */
  generation: Record<string, unknown> | undefined
  /** The tensors, in the order they are to lie in the file. */
  entries: readonly HeaderEntry[]
  writeTensors: WriteTensors
}

export interface CheckpointContents extends ModelContents {
  /** With the source's config in `source`. */
  header: FlrcHeader & { source: Record<string, unknown> }
  plan: CompressionPlan
  /** What making it took: the only file in which equal runs differ. */
  run?: { seconds: Record<string, number>; peakBytes: number; threads: number }
  card: Omit<CardContents, 'header' | 'method' | 'chats'>
}

export interface DenseContents extends ModelContents {
  /** The Hugging Face config.json of the dense model. */
  config: Record<string, unknown>
}

export type WriteOptions = DirectoryOptions & Pick<WeightsOptions, 'shardBytes'>

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}

async function writeModel(
  directory: string,
  config: Record<string, unknown>,
  { tokenizer, generation, entries, writeTensors }: ModelContents,
  options: WriteOptions,
): Promise<WrittenWeights> {
  const { chatTemplate } = tokenizer
  const own = withoutCode(tokenizer.config)
  const tokenizerConfig = chatTemplate === undefined ? own : { ...own, chat_template: chatTemplate }
  await createFile(join(directory, 'config.json'), json(config))
  await createFile(join(directory, 'tokenizer.json'), json(tokenizer.tokenizer))
  await createFile(join(directory, 'tokenizer_config.json'), json(tokenizerConfig))
  if (generation !== undefined) await createFile(join(directory, 'generation_config.json'), json(generation))
  return writeWeights(directory, entries, writeTensors, options)
}

/**
 * A tokenizer's configuration without the code that auto_map names, which is not written here and without which
 * transformers would refuse to load the rest. Its class goes too: all that it knows is in tokenizer.json.
 */
function withoutCode({ auto_map: code, ...config }: Record<string, unknown>): Record<string, unknown> {
  const isOfCode = JSON.stringify(code ?? null).includes(`.${config.tokenizer_class}"`)
  return isOfCode ? { ...config, tokenizer_class: 'PreTrainedTokenizerFast' } : config
}

/**
 * Writes an FLRC checkpoint: a whole directory or nothing (see `writeDirectory`).
 *
 * @throws E_EXISTS, E_IO naming the file, E_ABORTED, E_NUMERIC for scores or curves that are not finite, and
 *   what `writeTensors` throws
 */
export async function writeCheckpoint(
  target: string,
  contents: CheckpointContents,
  options: WriteOptions = {},
): Promise<WrittenWeights> {
  const { header, plan, run, card, tokenizer } = contents
  const chats = tokenizer.chatTemplate !== undefined
  return writeDirectory(target, options, async (directory) => {
    await createFile(join(directory, 'flrc-plan.json'), planJson(plan))
    if (run !== undefined) await createFile(join(directory, 'flrc-run.json'), json(run))
    for (const { file, svg } of card.figures ?? []) await createFile(join(directory, file), svg)
    await createFile(join(directory, 'README.md'), modelCard({ ...card, header, method: plan.method, chats }))
    return writeModel(directory, { model_type: 'flrc', flrc: header }, contents, options)
  })
}

const torchTypes: Record<string, string> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

/**
 * Writes a dense Hugging Face model directory, which transformers, vLLM and llama.cpp's converter read.
 *
 * @throws as `writeCheckpoint`
 */
export async function writeDenseModel(
  target: string,
  contents: DenseContents,
  options: WriteOptions = {},
): Promise<WrittenWeights> {
  // Code that auto_map names is not written here, and transformers has the architecture itself.
  const { dtype: _, auto_map: _code, ...config } = contents.config
  const type = torchTypes[contents.entries[0]?.type ?? '']
  return writeDirectory(target, options, (directory) =>
    writeModel(directory, type === undefined ? config : { ...config, torch_dtype: type }, contents, options),
  )
}
