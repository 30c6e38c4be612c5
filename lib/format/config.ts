import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { ropeOfArchitecture } from './architecture-rope.js'
import { issueText } from './files.js'
import { type LayerRopes, oneRope, ropePerKind } from './layer-ropes.js'
import { type RopeShape, ropeConfigEntries } from './rope.js'
import { textConfig } from './text-config.js'
import type { Activation, Architecture, ModelConfig } from './types.js'

export const architectures: readonly Architecture[] = [
  'cwm',
  'gemma3_text',
  'granite',
  'internlm3',
  'iquestcoder',
  'llama',
  'ministral',
  'ministral3',
  'mistral',
  'phi3',
  'qwen2',
  'qwen3',
  'seed_oss',
  'smollm3',
]

const plain = {
  kvHeads: undefined,
  headDim: undefined,
  context: 2048,
  window: undefined,
  eps: 1e-6,
  theta: 10_000,
  tied: false,
}
/** What a published config may leave out, as transformers' configuration classes fill it in. */
const defaults = {
  cwm: { ...plain, kvHeads: 8, headDim: 128, context: 131_072, window: 8192, eps: 1e-5, theta: 1_000_000 },
  gemma3_text: {
    ...{ kvHeads: 4, headDim: 256, context: 131_072, window: 4096 },
    ...{ eps: 1e-6, theta: 1_000_000, tied: true },
  },
  granite: plain,
  internlm3: { ...plain, kvHeads: 2, headDim: 128, context: 32_768, eps: 1e-5 },
  iquestcoder: { ...plain, kvHeads: 8, headDim: 128, context: 131_072, eps: 1e-5 },
  llama: plain,
  ministral: { ...plain, kvHeads: 8, context: 131_072, window: 4096 },
  ministral3: { ...plain, kvHeads: 8, headDim: 128, context: 262_144, eps: 1e-5, theta: 1_000_000 },
  mistral: { ...plain, kvHeads: 8, context: 131_072, window: 4096 },
  phi3: { ...plain, context: 4096, eps: 1e-5 },
  qwen2: { ...plain, kvHeads: 32, context: 32_768, window: 4096 },
  qwen3: { ...plain, kvHeads: 32, headDim: 128, context: 32_768, window: 4096 },
  seed_oss: { ...plain, kvHeads: 8, headDim: 128, context: 524_288 },
  smollm3: { ...plain, kvHeads: 4, context: 32_768, theta: 2_000_000, tied: true },
} as const satisfies Record<Architecture, unknown>

const activations: Record<string, Activation> = { silu: 'silu', swish: 'silu', gelu_pytorch_tanh: 'gelu-tanh' }

/** The ids that CwmConfig has unless told. */
const cwmIds = { bos_token_id: 128_000, eos_token_id: [128_001, 128_008, 128_009] }

/** Bounds far above any published model, so low that no size computed from them can overflow. */
const upTo = (limit: number) => v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(limit))
const tokenId = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const tokenIds = v.nullish(v.union([tokenId, v.array(tokenId)]))
const flag = v.nullish(v.boolean())
const factor = v.nullish(v.pipe(v.number(), v.finite(), v.gtValue(0)))

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
  hidden_activation: v.nullish(v.string()),
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
  // How many layers there are from one that attends to everything, or that nothing turns, to the next.
  sliding_window_pattern: v.nullish(upTo(1024)),
  no_rope_layer_interval: v.nullish(upTo(1024)),
  no_rope_layers: v.nullish(v.array(v.picklist([0, 1]))),
  rope_local_base_freq: factor,
  query_pre_attn_scalar: factor,
  embedding_multiplier: factor,
  attention_multiplier: factor,
  residual_multiplier: factor,
  logits_scaling: factor,
  attn_logit_softcapping: v.nullish(v.number()),
  final_logit_softcapping: v.nullish(v.number()),
  use_bidirectional_attention: flag,
  clip_qkv: v.nullish(v.number()),
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

/** Whether each layer's heads are turned. [layers] */
function turnedLayers(architecture: Architecture, config: HuggingFaceConfig, file: string): boolean[] {
  const layers = config.num_hidden_layers
  if (architecture !== 'smollm3') return new Array<boolean>(layers).fill(true)
  const use = config.no_rope_layers
  const interval = config.no_rope_layer_interval ?? 4
  if (!use) return Array.from({ length: layers }, (_, i) => (i + 1) % interval !== 0)
  if (use.length < layers) throw malformed(file, `${use.length} no_rope_layers for ${layers} layers`)
  return use.slice(0, layers).map((turned) => turned === 1)
}

/** Whether each layer attends within a sliding window, where models have both kinds. [layers] */
function slidingLayers(architecture: Architecture, config: HuggingFaceConfig, file: string): boolean[] {
  const types = layerTypes(config, file)
  if (types) return types.map((type) => type === 'sliding_attention')
  const turned = turnedLayers(architecture, config, file)
  const pattern = config.sliding_window_pattern ?? 6
  const first = config.max_window_layers ?? 28
  return turned.map((isTurned, i) => {
    switch (architecture) {
      case 'cwm':
        return i % 4 !== 0
      case 'gemma3_text':
        return (i + 1) % pattern !== 0
      case 'smollm3':
        return !isTurned
      case 'ministral':
        return true
      default:
        return i >= first
    }
  })
}

/** Window of each layer in tokens, 0 for full attention. [layers] */
function slidingWindows(architecture: Architecture, config: HuggingFaceConfig, file: string): number[] {
  const layers = config.num_hidden_layers
  const window = config.sliding_window === undefined ? defaults[architecture].window : config.sliding_window
  switch (architecture) {
    case 'granite':
    case 'internlm3':
    case 'iquestcoder':
    case 'llama':
    case 'seed_oss':
      return new Array<number>(layers).fill(0)
    case 'ministral3':
    case 'mistral':
    case 'phi3':
      return new Array<number>(layers).fill(window ?? 0)
    case 'cwm':
    case 'gemma3_text':
    case 'ministral':
    case 'qwen2':
    case 'qwen3':
    case 'smollm3': {
      const optional = ['qwen2', 'qwen3', 'smollm3'].includes(architecture)
      const active = !optional || config.use_sliding_window ? (window ?? 0) : 0
      return slidingLayers(architecture, config, file).map((slides) => (slides ? active : 0))
    }
  }
}

function activationOf(architecture: Architecture, config: HuggingFaceConfig, file: string): Activation {
  const [field, name] =
    architecture === 'gemma3_text'
      ? ['hidden_activation', config.hidden_activation ?? 'gelu_pytorch_tanh']
      : ['hidden_act', config.hidden_act ?? 'silu']
  const known = activations[name]
  if (known) return known
  throw unsupported(
    file,
    `${field} ${JSON.stringify(name)} is not supported; supported are ${Object.keys(activations).join(', ')}`,
  )
}

type Scales = Pick<ModelConfig, 'embeddingScale' | 'queryScale' | 'residualScale' | 'logitScale'>

function scales(architecture: Architecture, config: HuggingFaceConfig, headDim: number): Scales {
  const none = { embeddingScale: 1, queryScale: 1, residualScale: 1, logitScale: 1 }
  switch (architecture) {
    case 'gemma3_text':
      return {
        ...none,
        embeddingScale: Math.sqrt(config.hidden_size),
        queryScale: Math.sqrt(headDim / (config.query_pre_attn_scalar ?? 256)),
      }
    case 'granite':
      return {
        embeddingScale: config.embedding_multiplier ?? 1,
        queryScale: (config.attention_multiplier ?? 1) * Math.sqrt(headDim),
        residualScale: config.residual_multiplier ?? 1,
        logitScale: 1 / (config.logits_scaling ?? 1),
      }
    default:
      return none
  }
}

/** What configurations may ask for beside what we compute, and transformers, of iquestcoder and internlm3, neither. */
function refuseUnusual(architecture: Architecture, config: HuggingFaceConfig, file: string): void {
  for (const field of ['attn_logit_softcapping', 'final_logit_softcapping'] as const) {
    if (config[field] === null || config[field] === undefined) continue
    throw unsupported(file, `${field} ${config[field]} is not supported; choose a model without soft caps`)
  }
  if (config.use_bidirectional_attention) {
    throw unsupported(file, 'use_bidirectional_attention is not supported; choose a model that writes text')
  }
  if (architecture === 'iquestcoder') {
    if (config.clip_qkv !== null && config.clip_qkv !== undefined)
      throw unsupported(file, 'clip_qkv is not supported; choose a model without it')
    if (config.use_sliding_window)
      throw unsupported(file, 'use_sliding_window is not supported in iquestcoder; choose a model without it')
  }
  if (architecture === 'internlm3') {
    const { qkvBias, mlpBias } = biases(architecture, config)
    if (qkvBias !== mlpBias)
      throw unsupported(
        file,
        `qkv_bias ${qkvBias} beside bias ${mlpBias} is not supported; choose a model that has both or none`,
      )
  }
}

function biases(architecture: Architecture, config: HuggingFaceConfig) {
  const attention = config.attention_bias ?? false
  const mlpBias = config.mlp_bias ?? false
  switch (architecture) {
    case 'granite':
    case 'iquestcoder':
    case 'llama':
    case 'smollm3':
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
    case 'ministral3':
    case 'mistral':
    case 'phi3':
      return { qkvBias: false, outputBias: false, mlpBias: false }
    case 'qwen2':
      return { qkvBias: true, outputBias: false, mlpBias: false }
    case 'gemma3_text':
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

function layerRopes(
  architecture: Architecture,
  config: HuggingFaceConfig,
  shape: RopeShape,
  file: string,
): LayerRopes {
  const known = { ...config, rope_theta: config.rope_theta ?? defaults[architecture].theta }
  if (architecture === 'gemma3_text') {
    return ropePerKind(known, shape, slidingLayers(architecture, config, file), file)
  }
  const rope = ropeOfArchitecture(architecture, known, shape, file)
  return oneRope(rope, turnedLayers(architecture, config, file))
}

const asList = (ids: v.InferOutput<typeof tokenIds>): number[] =>
  ids === null || ids === undefined ? [] : [ids].flat()

/**
 * What the forward pass needs, from a Hugging Face config.json and, where there is one, the
 * generation_config.json whose token ids come first. `file` names the config in errors. Throws
 * E_MODEL_FORMAT for values that cannot be right, E_UNSUPPORTED_ARCH for models we cannot run.
 */
export function modelConfig(
  published: Record<string, unknown>,
  generation: Record<string, unknown> | undefined,
  file: string,
): ModelConfig {
  const source = textConfig(published)
  const architecture = architectureOf(source, file)
  const parsed = v.safeParse(configSchema, source)
  if (!parsed.success) throw malformed(file, issueText(parsed.issues))
  const config = parsed.output
  refuseUnusual(architecture, config, file)
  const activation = activationOf(architecture, config, file)
  const ids = v.safeParse(generationSchema, generation ?? {})
  if (!ids.success) throw malformed(file, `generation config: ${issueText(ids.issues)}`)

  const { heads, kvHeads, headDim } = headShape(architecture, config, file)
  const maxPositions = config.max_position_embeddings ?? defaults[architecture].context
  const { ropes, layerRope, positions } = layerRopes(architecture, config, { headDim, maxPositions }, file)
  if (!ropes.every(({ frequencies, scale }) => [...frequencies, scale].every(Number.isFinite))) {
    throw malformed(file, 'rotary frequencies are not finite')
  }
  const isGemma = architecture === 'gemma3_text'
  const own = architecture === 'cwm' ? cwmIds : undefined
  const idsOf = (kind: keyof typeof cwmIds) => {
    const given = config[kind] === undefined ? own?.[kind] : config[kind]
    return asList(ids.output[kind] ?? given)
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
    contextLength: positions,
    rmsNormEps: config.rms_norm_eps ?? defaults[architecture].eps,
    tieEmbeddings: config.tie_word_embeddings ?? defaults[architecture].tied,
    ...biases(architecture, config),
    qkNorm: isGemma || architecture === 'qwen3',
    outputNorms: isGemma,
    normOffset: isGemma ? 1 : 0,
    activation,
    ...scales(architecture, config, headDim),
    slidingWindow: slidingWindows(architecture, config, file),
    ropes,
    layerRope,
    bosTokenId: idsOf('bos_token_id')[0],
    eosTokenIds: [...new Set(idsOf('eos_token_id'))],
    source,
  }
}
