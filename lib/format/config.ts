import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText } from './files.js'
import { type RopeOfPositions, type RopeShape, ropeConfigEntries, ropeOf } from './rope.js'
import type { Architecture, ModelConfig } from './types.js'

export const architectures: readonly Architecture[] = [
  'cwm',
  'internlm3',
  'iquestcoder',
  'llama',
  'ministral',
  'mistral',
  'phi3',
  'qwen2',
  'qwen3',
  'seed_oss',
]

/** What a published config may leave out, as transformers' configuration classes fill it in. */
const defaults = {
  cwm: { kvHeads: 8, headDim: 128, context: 131_072, window: 8192, eps: 1e-5 },
  internlm3: { kvHeads: 2, headDim: 128, context: 32_768, window: undefined, eps: 1e-5 },
  iquestcoder: { kvHeads: 8, headDim: 128, context: 131_072, window: undefined, eps: 1e-5 },
  llama: { kvHeads: undefined, headDim: undefined, context: 2048, window: undefined, eps: 1e-6 },
  ministral: { kvHeads: 8, headDim: undefined, context: 131_072, window: 4096, eps: 1e-6 },
  mistral: { kvHeads: 8, headDim: undefined, context: 131_072, window: 4096, eps: 1e-6 },
  phi3: { kvHeads: undefined, headDim: undefined, context: 4096, window: undefined, eps: 1e-5 },
  qwen2: { kvHeads: 32, headDim: undefined, context: 32_768, window: 4096, eps: 1e-6 },
  qwen3: { kvHeads: 32, headDim: 128, context: 32_768, window: 4096, eps: 1e-6 },
  seed_oss: { kvHeads: 8, headDim: 128, context: 524_288, window: undefined, eps: 1e-6 },
} as const satisfies Record<Architecture, unknown>

/** How CwmConfig rotates unless told. */
const cwmRope = {
  theta: 1e6,
  scaling: {
    rope_type: 'llama3',
    factor: 16,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
}

/** Phi3Config trains at 4096 positions unless told, and takes these older names for longrope. */
const phi3Rope = { original: 4096, partial: true, renamed: { su: 'longrope', yarn: 'longrope' } }

/** Bounds far above any published model, so low that no size computed from them can overflow. */
const upTo = (limit: number) => v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(limit))
const tokenId = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const tokenIds = v.nullish(v.union([tokenId, v.array(tokenId)]))
const flag = v.nullish(v.boolean())

const configSchema = v.object({
  vocab_size: upTo(1 << 24),
  hidden_size: upTo(1 << 17),
  intermediate_size: upTo(1 << 20),
  num_hidden_layers: upTo(1024),
  num_attention_heads: upTo(4096),
  num_key_value_heads: v.nullish(upTo(4096)),
  head_dim: v.nullish(upTo(1024)),
  max_position_embeddings: v.nullish(upTo(2 ** 31 - 1)),
  rms_norm_eps: v.optional(v.pipe(v.number(), v.finite(), v.gtValue(0), v.maxValue(1))),
  hidden_act: v.nullish(v.string()),
  tie_word_embeddings: flag,
  attention_bias: flag,
  attention_out_bias: flag,
  mlp_bias: flag,
  qkv_bias: flag,
  bias: flag,
  sliding_window: v.nullish(upTo(2 ** 31 - 1)),
  use_sliding_window: flag,
  max_window_layers: v.nullish(tokenId),
  layer_types: v.nullish(v.array(v.string())),
  bos_token_id: tokenIds,
  eos_token_id: tokenIds,
  ...ropeConfigEntries,
})
type HuggingFaceConfig = v.InferOutput<typeof configSchema>

const generationSchema = v.object({ bos_token_id: tokenIds, eos_token_id: tokenIds })

function malformed(file: string, problem: string): FlrcError {
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${problem}; download the file again`, { file })
}

function unsupported(file: string, problem: string): FlrcError {
  return new FlrcError('E_UNSUPPORTED_ARCH', `${file}: ${problem}`, { file })
}

function architectureOf(source: Record<string, unknown>, file: string): Architecture {
  const type = source.model_type
  if (typeof type !== 'string') throw malformed(file, 'no model_type')
  const known = architectures.find((architecture) => architecture === type)
  if (known) return known
  throw unsupported(
    file,
    `architecture ${JSON.stringify(type)} is not supported; supported are ${architectures.join(', ')}`,
  )
}

/** The kinds of layers that a config names, if it does. [layers] */
function layerTypes({ layer_types: types, num_hidden_layers: layers }: HuggingFaceConfig, file: string) {
  if (types && types.length !== layers) {
    throw malformed(file, `${types.length} layer_types for ${layers} layers`)
  }
  const strange = types?.find((type) => type !== 'sliding_attention' && type !== 'full_attention')
  if (strange !== undefined) {
    throw unsupported(
      file,
      `layer type ${JSON.stringify(strange)} is not supported; supported are full_attention and sliding_attention`,
    )
  }
  return types
}

/** Window of each layer in tokens, 0 for full attention. [layers] */
function slidingWindows(architecture: Architecture, config: HuggingFaceConfig, file: string): number[] {
  const layers = config.num_hidden_layers
  const window = config.sliding_window === undefined ? defaults[architecture].window : config.sliding_window
  const byLayer = (active: number, usual: (layer: number) => boolean) => {
    const types = layerTypes(config, file)
    return Array.from({ length: layers }, (_, i) => {
      const slides = types ? types[i] === 'sliding_attention' : usual(i)
      return slides ? active : 0
    })
  }
  switch (architecture) {
    case 'internlm3':
    case 'iquestcoder':
    case 'llama':
    case 'seed_oss':
      return new Array<number>(layers).fill(0)
    case 'mistral':
    case 'phi3':
      return new Array<number>(layers).fill(window ?? 0)
    case 'cwm':
      return byLayer(window ?? 0, (layer) => layer % 4 !== 0)
    case 'ministral':
      return byLayer(window ?? 0, () => true)
    case 'qwen2':
    case 'qwen3': {
      const first = config.max_window_layers ?? 28
      return byLayer(config.use_sliding_window ? (window ?? 0) : 0, (layer) => layer >= first)
    }
  }
}

function biases(architecture: Architecture, config: HuggingFaceConfig) {
  const attention = config.attention_bias ?? false
  const mlpBias = config.mlp_bias ?? false
  switch (architecture) {
    case 'iquestcoder':
    case 'llama':
      return { qkvBias: attention, outputBias: attention, mlpBias }
    case 'internlm3': {
      const all = config.qkv_bias ?? attention
      return { qkvBias: all, outputBias: all, mlpBias: config.bias ?? mlpBias }
    }
    case 'seed_oss': {
      const outputBias = config.attention_out_bias ?? false
      return { qkvBias: config.attention_bias ?? true, outputBias, mlpBias }
    }
    case 'cwm':
      return { qkvBias: false, outputBias: false, mlpBias }
    case 'ministral':
    case 'mistral':
    case 'phi3':
      return { qkvBias: false, outputBias: false, mlpBias: false }
    case 'qwen2':
      return { qkvBias: true, outputBias: false, mlpBias: false }
    case 'qwen3':
      return { qkvBias: attention, outputBias: attention, mlpBias: false }
  }
}

function headShape(architecture: Architecture, config: HuggingFaceConfig, file: string) {
  const heads = config.num_attention_heads
  const given = config.num_key_value_heads
  const kvHeads = given === undefined ? (defaults[architecture].kvHeads ?? heads) : (given ?? heads)
  if (heads % kvHeads !== 0) {
    throw malformed(file, `${heads} attention heads cannot share ${kvHeads} key-value heads`)
  }
  const usual = config.head_dim === undefined ? defaults[architecture].headDim : undefined
  const headDim = config.head_dim ?? usual ?? config.hidden_size / heads
  if (!Number.isInteger(headDim)) {
    throw malformed(file, `hidden_size ${config.hidden_size} is no multiple of ${heads} attention heads`)
  }
  if (headDim % 2 !== 0) throw malformed(file, `head dimension ${headDim} is odd`)
  if (heads * headDim > 1 << 20) throw malformed(file, `${heads} heads of ${headDim} are too many`)
  return { heads, kvHeads, headDim }
}

function ropeOfArchitecture(
  architecture: Architecture,
  config: HuggingFaceConfig,
  shape: RopeShape,
  file: string,
): RopeOfPositions {
  switch (architecture) {
    case 'cwm': {
      const { theta, scaling } = cwmRope
      const own = config.rope_scaling ?? config.rope_parameters ?? scaling
      return ropeOf({ ...config, rope_scaling: own, rope_theta: config.rope_theta ?? theta }, shape, file)
    }
    case 'phi3': {
      const { original, ...own } = phi3Rope
      const trained = config.original_max_position_embeddings ?? original
      return ropeOf({ ...config, original_max_position_embeddings: trained }, { ...shape, ...own }, file)
    }
    default:
      return ropeOf(config, shape, file)
  }
}

const asList = (ids: v.InferOutput<typeof tokenIds>): number[] =>
  ids === null || ids === undefined ? [] : [ids].flat()

/**
 * What the forward pass needs, from a Hugging Face config.json and, where there is one, the
 * generation_config.json whose token ids come first. `file` names the config in errors. Throws
 * E_MODEL_FORMAT for values that cannot be right, E_UNSUPPORTED_ARCH for models we cannot run.
 */
export function modelConfig(
  source: Record<string, unknown>,
  generation: Record<string, unknown> | undefined,
  file: string,
): ModelConfig {
  const architecture = architectureOf(source, file)
  const parsed = v.safeParse(configSchema, source)
  if (!parsed.success) throw malformed(file, issueText(parsed.issues))
  const config = parsed.output
  const activation = config.hidden_act ?? 'silu'
  if (activation !== 'silu' && activation !== 'swish') {
    throw unsupported(file, `hidden_act ${JSON.stringify(activation)} is not supported; only silu is`)
  }
  const ids = v.safeParse(generationSchema, generation ?? {})
  if (!ids.success) throw malformed(file, `generation config: ${issueText(ids.issues)}`)

  const { heads, kvHeads, headDim } = headShape(architecture, config, file)
  const maxPositions = config.max_position_embeddings ?? defaults[architecture].context
  const rope = ropeOfArchitecture(architecture, config, { headDim, maxPositions }, file)
  if (!rope.frequencies.every(Number.isFinite) || !Number.isFinite(rope.scale)) {
    throw malformed(file, 'rotary frequencies are not finite')
  }
  return {
    architecture,
    layers: config.num_hidden_layers,
    hiddenSize: config.hidden_size,
    heads,
    kvHeads,
    headDim,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    contextLength: rope.positions,
    rmsNormEps: config.rms_norm_eps ?? defaults[architecture].eps,
    tieEmbeddings: config.tie_word_embeddings ?? false,
    ...biases(architecture, config),
    qkNorm: architecture === 'qwen3',
    outputNorms: false,
    normOffset: 0,
    activation: 'silu',
    embeddingScale: 1,
    queryScale: 1,
    residualScale: 1,
    logitScale: 1,
    slidingWindow: slidingWindows(architecture, config, file),
    ropes: [{ frequencies: rope.frequencies, scale: rope.scale }],
    layerRope: new Array<number>(config.num_hidden_layers).fill(0),
    bosTokenId: asList(ids.output.bos_token_id ?? config.bos_token_id)[0],
    eosTokenIds: [...new Set(asList(ids.output.eos_token_id ?? config.eos_token_id))],
    source,
  }
}
