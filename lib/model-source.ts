import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { FlrcError } from './errors.js'
import { type OlderTokenFiles, withAddedTokens, withSpecialTokens } from './format/added-tokens.js'
import { modelConfig } from './format/config.js'
import {
  isObject,
  parseJsonObject,
  readJsonObject,
  readTextFile,
  sameBytes,
  statIfThere,
} from './format/files.js'
import { checkRanks, flrcHeader, withChannelsLeft } from './format/flrc-header.js'
import { separated } from './format/fused.js'
import { type GgufFile, ggufTypes, readGguf } from './format/gguf.js'
import { configFromGguf, ggufArchitecture, isGgufType } from './format/gguf-config.js'
import { ggufExcess, huggingFaceName, isInterleaved } from './format/gguf-names.js'
import { tokenizerFromGguf } from './format/gguf-tokenizer.js'
import { licenseOfDirectory, licenseOfGguf } from './format/license.js'
import { isModelTensor } from './format/projections.js'
import {
  readSafetensors,
  readShardedSafetensors,
  type StoredTensor,
  type StoredTensors,
  tensorSource,
} from './format/safetensors.js'
import type {
  FlrcHeader,
  ModelConfig,
  ModelSource,
  TensorSource,
  TensorType,
  TokenizerSource,
} from './format/types.js'

const configLimit = 16_000_000
const tokenizerLimit = 256_000_000
/** A template's text is bounded again where it is rendered; this bounds the file. */
const templateFileLimit = 4_000_000

const denseTypes: readonly TensorType[] = ['F32', 'F16', 'BF16']
const factorTypes: readonly TensorType[] = [...denseTypes, 'I32', 'I8', 'U8']

async function isThere(file: string): Promise<boolean> {
  return (await statIfThere(file)) !== undefined
}

function nothingThere(path: string): FlrcError {
  return new FlrcError(
    'E_NOT_FOUND',
    `${path}: no such file or directory (looked for a .gguf file, a Hugging Face directory or an FLRC directory); check the path`,
    { file: path },
  )
}

/**
 * Chat template of a directory: its own file, as newer models have it, or the tokenizer config's field, or that of models that
 * also see.
 */
async function directoryTemplate(
  directory: string,
  config: Record<string, unknown>,
): Promise<string | undefined> {
  const file = join(directory, 'chat_template.jinja')
  if (await isThere(file)) return readTextFile(file, { limit: templateFileLimit, code: 'E_CHAT_TEMPLATE' })
  const processor = join(directory, 'chat_template.json')
  const field =
    config.chat_template ??
    ((await isThere(processor))
      ? (await readJsonObject(processor, { limit: templateFileLimit, code: 'E_CHAT_TEMPLATE' })).chat_template
      : undefined)
  if (typeof field === 'string') return field
  if (!Array.isArray(field)) return undefined
  const named = field.filter(isObject).find(({ name }) => name === 'default')
  return typeof named?.template === 'string' ? named.template : undefined
}

/** What `make` gives, made at the first call. What it was made of, which may be large too, is let go then. */
function once<T>(make: () => T): () => T {
  let state: { make: () => T } | { value: T } = { make }
  return () => {
    if ('make' in state) state = { value: state.make() }
    return state.value
  }
}

async function directoryTokenizer(directory: string): Promise<() => TokenizerSource> {
  const file = join(directory, 'tokenizer.json')
  if (!(await isThere(file))) {
    throw new FlrcError(
      'E_TOKENIZER',
      `${file}: missing; copy it from the original model, or make it with transformers' save_pretrained`,
      { file },
    )
  }
  const text = await readTextFile(file, { limit: tokenizerLimit, code: 'E_TOKENIZER' })
  const configFile = join(directory, 'tokenizer_config.json')
  const config = (await isThere(configFile))
    ? await readJsonObject(configFile, { limit: tokenizerLimit, code: 'E_TOKENIZER' })
    : {}
  const chatTemplate = await directoryTemplate(directory, config)
  const older = await olderTokenFiles(directory, config)
  return once(() => ({
    tokenizer: withAddedTokens(parseJsonObject(text, file, 'E_TOKENIZER'), config, older),
    config: withSpecialTokens(config, older),
    chatTemplate,
  }))
}

/** As transformers, which reads these files where the configuration does not list the added tokens. */
async function olderTokenFiles(directory: string, config: Record<string, unknown>): Promise<OlderTokenFiles> {
  if (config.added_tokens_decoder !== undefined) return {}
  const read = async (name: string) => {
    const file = join(directory, name)
    return (await isThere(file))
      ? readJsonObject(file, { limit: tokenizerLimit, code: 'E_TOKENIZER' })
      : undefined
  }
  return { special: await read('special_tokens_map.json'), added: await read('added_tokens.json') }
}

async function directoryTensors(directory: string): Promise<StoredTensors> {
  const single = join(directory, 'model.safetensors')
  // The same order of preference as transformers.
  if (await isThere(single)) {
    const { tensors, fileBytes } = await readSafetensors(single)
    return { tensors, fileBytes }
  }
  if (await isThere(join(directory, 'model.safetensors.index.json'))) return readShardedSafetensors(directory)
  const pickled =
    (await isThere(join(directory, 'pytorch_model.bin'))) ||
    (await isThere(join(directory, 'pytorch_model.bin.index.json')))
  throw new FlrcError(
    'E_MODEL_FORMAT',
    pickled
      ? `${directory}: has only pytorch_model.bin, which is not read because it can run code; convert it to model.safetensors with transformers' save_pretrained`
      : `${directory}: neither model.safetensors nor model.safetensors.index.json; download the model again`,
    { file: directory },
  )
}

/** Files without the usual prefix come from saving the inner model alone; others are of models that also see. */
function canonicalName(stored: string): string {
  const name = stored
    .replace(/^(model\.language_model|language_model\.model)\./, 'model.')
    .replace(/^language_model\.lm_head\./, 'lm_head.')
  return /^(layers\.\d+|embed_tokens|norm)\./.test(name) ? `model.${name}` : name
}

const embeddingName = 'model.embed_tokens.weight'
const headName = 'lm_head.weight'

function storedAs(stored: StoredTensors, name: string): StoredTensor | undefined {
  return [...stored.tensors.values()].find((tensor) => canonicalName(tensor.name) === name)
}

function directorySources(
  stored: StoredTensors,
  config: ModelConfig,
  allowed: readonly TensorType[],
  path: string,
): Map<string, TensorSource> {
  // Where the two are one tensor, files may hold it by either name.
  const headIsBoth = config.tieEmbeddings && !storedAs(stored, embeddingName)
  const sources: TensorSource[] = []
  for (const tensor of stored.tensors.values()) {
    const own = canonicalName(tensor.name)
    const name = headIsBoth && own === headName ? embeddingName : own
    if (!isModelTensor(name, config)) continue
    const source = tensorSource(tensor, allowed)
    sources.push(name === source.name ? source : { ...source, name, storedName: source.name })
  }
  return separated(sources, config, path)
}

function withHead(config: ModelConfig, tied: boolean): ModelConfig {
  return { ...config, tieEmbeddings: tied, source: { ...config.source, tie_word_embeddings: tied } }
}

/**
 * Models that also see say in two places whether their head is the embedding, and may mean neither: transformers goes by
 * whether the files hold one.
 */
function withHeadAsStored(config: ModelConfig, stored: StoredTensors): ModelConfig {
  return withHead(config, !storedAs(stored, headName))
}

/** A head that the config says is the embedding is none where the files hold another one: transformers compares them too. */
async function withHeadCompared(
  config: ModelConfig,
  stored: StoredTensors,
  signal?: AbortSignal,
): Promise<ModelConfig> {
  const embedding = storedAs(stored, embeddingName)
  const head = storedAs(stored, headName)
  if (!config.tieEmbeddings || !embedding || !head) return config
  const alike = embedding.dtype === head.dtype && `${embedding.shape}` === `${head.shape}`
  return alike && (await sameBytes(embedding, head, signal)) ? config : withHead(config, false)
}

function refuseQuantised(config: Record<string, unknown>, file: string): void {
  const quantisation = config.quantization_config
  if (!isObject(quantisation)) return
  const method = String(quantisation.quant_method ?? 'unknown')
  throw new FlrcError(
    'E_UNSUPPORTED_TYPE',
    `${file}: weights quantised by ${method} are not supported; use the model's unquantised weights or a GGUF file`,
    { file },
  )
}

async function openDirectory(path: string, signal?: AbortSignal): Promise<ModelSource> {
  const file = join(path, 'config.json')
  if (!(await isThere(file))) {
    const [gguf] = (await readdir(path)).filter((name) => name.endsWith('.gguf')).sort()
    const remedy =
      gguf === undefined
        ? 'give a .gguf file, or a directory with config.json, model.safetensors and tokenizer.json'
        : `give one of its .gguf files, such as ${join(path, gguf)}`
    throw new FlrcError('E_NOT_FOUND', `${file}: missing; ${remedy}`, { file })
  }
  const own = await readJsonObject(file, { limit: configLimit, code: 'E_MODEL_FORMAT' })
  const generationFile = join(path, 'generation_config.json')
  const generation = (await isThere(generationFile))
    ? await readJsonObject(generationFile, { limit: configLimit, code: 'E_MODEL_FORMAT' })
    : undefined

  let flrc: FlrcHeader | undefined
  let source = own
  if (own.model_type === 'flrc') {
    const header = flrcHeader(own.flrc, file)
    flrc = header
    source = header.source
  }
  const whole = modelConfig(source, generation, file)
  const written = flrc ? withChannelsLeft(whole, flrc, file) : whole
  if (flrc) checkRanks(flrc, written, file)
  else refuseQuantised(own, file)

  const tokenizer = await directoryTokenizer(path)
  const stored = await directoryTensors(path)
  const config = isObject(source.text_config)
    ? withHeadAsStored(written, stored)
    : await withHeadCompared(written, stored, signal)
  return {
    format: flrc ? 'flrc' : 'huggingface',
    path,
    config,
    tensors: directorySources(stored, config, flrc ? factorTypes : denseTypes, path),
    tokenizer,
    generation,
    flrc,
    fileBytes: stored.fileBytes,
    license: () => licenseOfDirectory(path),
  }
}

function ggufSources(gguf: GgufFile, config: ModelConfig): Map<string, TensorSource> {
  const architecture = ggufArchitecture(gguf)
  const sources: TensorSource[] = []
  for (const { name: ggml, file, type, shape, offset, byteLength } of gguf.tensors.values()) {
    const name = huggingFaceName(architecture, ggml)
    if (name === undefined || !isModelTensor(name, config)) continue
    if (!isGgufType(type)) {
      throw new FlrcError(
        'E_UNSUPPORTED_TYPE',
        `${file}: tensor ${ggml} is ${type}; supported are ${ggufTypes.join(', ')}; use a file of one of these types`,
        { file, tensor: ggml },
      )
    }
    const interleavedHeads = !isInterleaved(architecture, ggml)
      ? {}
      : { interleavedHeads: name.includes('.q_proj.') ? config.heads : config.kvHeads }
    const excess = ggufExcess(architecture, ggml)
    const place = { file, offset, byteLength, type, shape }
    const form = { ...interleavedHeads, ...(excess === 0 ? {} : { excess }) }
    sources.push({ name, storedName: ggml, ...place, ...form })
  }
  return separated(sources, config, gguf.file)
}

/** llama.cpp's files need not agree with what the architecture says of biases: what is there counts. */
function withBiasesPresent(config: ModelConfig, tensors: ModelSource['tensors']): ModelConfig {
  const has = (name: string) => tensors.has(`model.layers.0.${name}.bias`)
  return {
    ...config,
    qkvBias: has('self_attn.q_proj'),
    outputBias: has('self_attn.o_proj'),
    mlpBias: has('mlp.down_proj'),
  }
}

async function openGguf(path: string): Promise<ModelSource> {
  const gguf = await readGguf(path)
  const config = modelConfig(await configFromGguf(gguf), undefined, path)
  const tensors = ggufSources(gguf, config)
  return {
    format: 'gguf',
    path,
    config: withBiasesPresent(config, tensors),
    tensors,
    tokenizer: once(() => tokenizerFromGguf(gguf)),
    generation: undefined,
    flrc: undefined,
    fileBytes: gguf.fileBytes,
    license: async () => licenseOfGguf(gguf),
  }
}

/**
 * Opens a model on disk: a .gguf file, a Hugging Face directory (one or many safetensors) or an FLRC
 * directory. Reads and checks headers and config; no weights, but of a head that is stored beside the embedding which it is said
 * to be. Presence and shapes of tensors are checked where they are loaded, and the tokenizer where it is made.
 *
 * Throws E_NOT_FOUND, E_IO, E_MODEL_FORMAT, E_UNSUPPORTED_ARCH, E_UNSUPPORTED_TYPE, E_TOKENIZER, E_VERSION, E_ABORTED.
 */
export async function openModelSource(path: string, signal?: AbortSignal): Promise<ModelSource> {
  const stats = await statIfThere(path)
  if (!stats) throw nothingThere(path)
  if (stats.isDirectory()) return openDirectory(path, signal)
  if (path.endsWith('.safetensors')) {
    throw new FlrcError(
      'E_USAGE',
      `${path}: a weights file alone; give the directory that also holds config.json and tokenizer.json`,
      { file: path },
    )
  }
  return openGguf(path)
}
