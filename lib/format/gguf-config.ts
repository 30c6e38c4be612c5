import { FlrcError } from '../errors.js'
import { isObject, readBytes } from './files.js'
import { type GgufFile, ggufFlag, ggufNumber, ggufRequired, ggufString, ggufTypes } from './gguf.js'
import { endTokens } from './gguf-ends.js'
import { longropeScale, ropeOf } from './rope.js'

const supported = ['gemma3', 'granite', 'llama', 'mistral3', 'phi3', 'qwen2', 'qwen3', 'smollm3'] as const
type GgufArchitecture = (typeof supported)[number]

const classes = {
  gemma3_text: 'Gemma3ForCausalLM',
  granite: 'GraniteForCausalLM',
  llama: 'LlamaForCausalLM',
  ministral3: 'Ministral3ForCausalLM',
  mistral: 'MistralForCausalLM',
  phi3: 'Phi3ForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
  smollm3: 'SmolLM3ForCausalLM',
} as const

interface Rotation {
  /** Dimensions of a head that are rotated. */
  rotated: number
  theta: number
  /** Positions that the file offers. */
  context: number
}

function unsupported(gguf: GgufFile, problem: string): FlrcError {
  return new FlrcError('E_UNSUPPORTED_ARCH', `${gguf.file}: ${problem}`, { file: gguf.file })
}

export function ggufArchitecture(gguf: GgufFile): GgufArchitecture {
  const name = ggufString(gguf, 'general.architecture')
  const known = supported.find((architecture) => architecture === name)
  if (!known) {
    throw unsupported(
      gguf,
      `architecture ${JSON.stringify(name ?? '')} is not supported; supported are ${supported.join(', ')} (older mistral files say llama)`,
    )
  }
  if ((ggufNumber(gguf, `${known}.expert_count`) ?? 0) > 0) {
    throw unsupported(gguf, 'mixtures of experts are not supported; choose a dense model')
  }
  return known
}

/** Divisors of the rotary frequencies that a file holds as a tensor of this name. [rotated / 2] */
async function ropeFactors(gguf: GgufFile, name: string, rotated: number): Promise<number[] | undefined> {
  const tensor = gguf.tensors.get(name)
  if (!tensor) return undefined
  const wrong = (problem: string) =>
    new FlrcError(
      'E_MODEL_FORMAT',
      `${gguf.file}: tensor ${tensor.name}: ${problem}; download the file again`,
      { file: gguf.file, tensor: tensor.name },
    )
  if (tensor.type !== 'F32' || tensor.byteLength !== rotated * 2) {
    throw wrong(`${tensor.type} [${tensor.shape}] where F32 [${rotated / 2}] belongs`)
  }
  const bytes = await readBytes(tensor.file, tensor.offset, tensor.byteLength)
  const factors = Array.from({ length: rotated / 2 }, (_, i) => bytes.readFloatLE(4 * i))
  if (!factors.every((factor) => Number.isFinite(factor) && factor > 0)) {
    throw wrong('factors that are not finite and positive')
  }
  return factors
}

/**
 * The published form of the factors that llama.cpp stores for Llama 3.1's scaling: that scaling with its own constants,
 * where it gives them; else longrope's, of one list for all positions. The factors themselves beside another `scaling` of the
 * file, which no published form combines with them, and for gemma3, whose scaling is for some layers.
 */
async function factorFields(
  gguf: GgufFile,
  { rotated, theta, context }: Rotation,
  scaling: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const factors = await ropeFactors(gguf, 'rope_freqs.weight', rotated)
  if (!factors) return {}
  if (Object.keys(scaling).length > 0 || ggufArchitecture(gguf) === 'gemma3')
    return { flrc_rope_factors: factors }
  const llama3 = {
    rope_type: 'llama3',
    factor: Number(Math.max(...factors).toPrecision(6)),
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  }
  const shape = { headDim: rotated, maxPositions: context }
  const plain = ropeOf({ rope_theta: theta }, shape, gguf.file).frequencies
  const stretched = ropeOf({ rope_theta: theta, rope_scaling: llama3 }, shape, gguf.file).frequencies
  const same = factors.every((factor, i) => {
    const ratio = (plain[i] ?? 0) / (stretched[i] ?? 1)
    return Math.abs(ratio - factor) <= 1e-4 * factor
  })
  const longrope = {
    rope_type: 'longrope',
    short_factor: factors,
    long_factor: factors,
    attention_factor: 1,
    original_max_position_embeddings: context,
  }
  return { rope_scaling: same ? llama3 : longrope }
}

/**
 * LongRoPE, which files tell by two tensors. Their metadata have the attention scaling as a number; where it is the one that
 * the lengths give, it is left to them.
 */
async function longropeFields(
  gguf: GgufFile,
  arch: string,
  { rotated, context }: Rotation,
): Promise<Record<string, unknown> | undefined> {
  const names = ['rope_factors_short.weight', 'rope_factors_long.weight'] as const
  if (!names.some((name) => gguf.tensors.has(name))) return undefined
  for (const name of names) if (!gguf.tensors.has(name)) throw missingTensor(gguf, name)
  const original = ggufNumber(gguf, `${arch}.rope.scaling.original_context_length`) ?? context
  const scale = ggufNumber(gguf, `${arch}.rope.scaling.attn_factor`) ?? 1
  const usual = Math.abs(scale / longropeScale(context / original, original) - 1) < 1e-6
  return {
    original_max_position_embeddings: original,
    rope_scaling: {
      rope_type: 'longrope',
      short_factor: await ropeFactors(gguf, names[0], rotated),
      long_factor: await ropeFactors(gguf, names[1], rotated),
      ...(usual ? {} : { attention_factor: scale }),
    },
  }
}

function scalingFields(gguf: GgufFile, arch: string, context: number): Record<string, unknown> {
  const type = ggufString(gguf, `${arch}.rope.scaling.type`)
  const factor = ggufNumber(gguf, `${arch}.rope.scaling.factor`)
  switch (type) {
    case undefined:
    case 'none':
    case 'linear': {
      const linear = type === 'none' ? undefined : (factor ?? ggufNumber(gguf, `${arch}.rope.scale_linear`))
      return linear === undefined || linear === 1
        ? {}
        : { rope_scaling: { rope_type: 'linear', factor: linear } }
    }
    case 'yarn': {
      if (!factor) throw unsupported(gguf, 'yarn rope scaling without a factor; download the file again')
      const attention = ggufNumber(gguf, `${arch}.rope.scaling.attn_factor`) ?? 1
      const betaFast = ggufNumber(gguf, `${arch}.rope.scaling.yarn_beta_fast`)
      const betaSlow = ggufNumber(gguf, `${arch}.rope.scaling.yarn_beta_slow`)
      return {
        rope_scaling: {
          rope_type: 'yarn',
          factor,
          original_max_position_embeddings:
            ggufNumber(gguf, `${arch}.rope.scaling.original_context_length`) ?? context,
          // llama.cpp multiplies its own magnitude correction by this factor; transformers replaces it.
          ...(attention === 1 ? {} : { attention_factor: attention * (0.1 * Math.log(factor) + 1) }),
          ...(betaFast === undefined ? {} : { beta_fast: betaFast }),
          ...(betaSlow === undefined ? {} : { beta_slow: betaSlow }),
        },
      }
    }
    default:
      throw unsupported(
        gguf,
        `rope scaling ${JSON.stringify(type)} is not supported; supported are none, linear, yarn, and longrope by its factors' tensors`,
      )
  }
}

function missingTensor(gguf: GgufFile, tensor: string): FlrcError {
  return new FlrcError('E_MODEL_FORMAT', `${gguf.file}: tensor ${tensor} is missing; download the file again`, {
    file: gguf.file,
    tensor,
  })
}

/** Dimensions of a head, and how many of them are rotated. */
function headDimensions(gguf: GgufFile, arch: GgufArchitecture, hidden: number, heads: number) {
  const headDim = ggufNumber(gguf, `${arch}.attention.key_length`) ?? hidden / heads
  const values = ggufNumber(gguf, `${arch}.attention.value_length`) ?? headDim
  const rotated = ggufNumber(gguf, `${arch}.rope.dimension_count`) ?? headDim
  const fits = arch === 'phi3' ? rotated <= headDim : rotated === headDim
  if (values !== headDim || !fits) {
    throw unsupported(
      gguf,
      `heads of ${headDim} keys, ${values} values and ${rotated} rotated dimensions; all three must be equal`,
    )
  }
  return { headDim, rotated }
}

/** The share of a head that is rotated, from which transformers finds the number again by rounding down. */
function partialRotaryFactor(headDim: number, rotated: number): number {
  const share = rotated / headDim
  return Math.trunc(headDim * share) === rotated ? share : (rotated + 0.5) / headDim
}

/** How much Ministral 3's queries grow beyond the trained context; Mistral Small's don't, in files of the same architecture. */
const queryGrowth = (gguf: GgufFile) => ggufNumber(gguf, 'mistral3.attention.temperature_scale') ?? 0

/** All about positions in one, as Ministral3Config has it; attention is scaled by nothing but what these two give. */
function ministral3Fields(gguf: GgufFile, theta: number, scaling: unknown): Record<string, unknown> {
  return {
    rope_parameters: {
      ...(isObject(scaling) ? scaling : {}),
      rope_theta: theta,
      mscale: 1,
      mscale_all_dim: ggufNumber(gguf, 'mistral3.rope.scaling.yarn_log_multiplier') ?? 1,
      llama_4_scaling_beta: queryGrowth(gguf),
    },
    rope_scaling: undefined,
  }
}

/** transformers loads the export in this type; quantised files come from models published in bf16. */
function publishedType(gguf: GgufFile): string {
  const type = gguf.tensors.get('token_embd.weight')?.type
  return type === 'F32' ? 'float32' : type === 'F16' ? 'float16' : 'bfloat16'
}

/** Which Hugging Face architecture computes what the file describes. */
function modelType(gguf: GgufFile, arch: GgufArchitecture, window: number | undefined): keyof typeof classes {
  if (arch === 'gemma3') return 'gemma3_text'
  if (arch === 'mistral3') return queryGrowth(gguf) ? 'ministral3' : 'mistral'
  if (arch !== 'llama') return arch
  if (window) return 'mistral'
  // Llama's attention_bias puts a bias on the output projection too; Qwen2 is Llama with q, k and v's alone.
  const { tensors } = gguf
  return tensors.has('blk.0.attn_q.bias') && !tensors.has('blk.0.attn_output.bias') ? 'qwen2' : arch
}

/** What Phi3Config, or llama.cpp's converter, would otherwise take from elsewhere. */
function phi3Fields(gguf: GgufFile, context: number): Record<string, unknown> {
  return {
    original_max_position_embeddings: ggufNumber(gguf, 'phi3.rope.scaling.original_context_length') ?? context,
    // Files of models without a window say 0.
    sliding_window: ggufNumber(gguf, 'phi3.attention.sliding_window') || null,
    pad_token_id: ggufNumber(gguf, 'tokenizer.ggml.padding_token_id') ?? null,
  }
}

/**
 * Ollama's own converter named rotations otherwise, left out the norms' epsilon and the scaling that goes with long contexts,
 * and wrote the soft cap of the generation before, which these models don't have.
 */
function ollamaGemma(gguf: GgufFile) {
  const number = (key: string) => ggufNumber(gguf, `gemma3.${key}`)
  const bases = { theta: number('rope.global.freq_base'), localTheta: number('rope.local.freq_base') }
  const noEpsilon = number('attention.layer_norm_rms_epsilon') === undefined
  return {
    ...bases,
    isIt: noEpsilon || bases.theta !== undefined,
    scales: noEpsilon && (number('context_length') ?? 0) > 32_768,
  }
}

/** llama.cpp's own numbers where files have none: every sixth layer attends to everything, and the 27B model, which it tells
 * by its 62 layers, scales queries by hidden / heads. */
function gemmaFields(gguf: GgufFile, headDim: number, share: number): Record<string, unknown> {
  const ollama = ollamaGemma(gguf)
  const softCap = ollama.isIt ? undefined : ggufNumber(gguf, 'gemma3.final_logit_softcapping')
  return {
    hidden_activation: 'gelu_pytorch_tanh',
    query_pre_attn_scalar: ggufRequired(gguf, 'gemma3.block_count') === 62 ? share : headDim,
    sliding_window: ggufRequired(gguf, 'gemma3.attention.sliding_window'),
    sliding_window_pattern: ggufNumber(gguf, 'gemma3.attention.sliding_window_pattern') ?? 6,
    rope_local_base_freq: ggufNumber(gguf, 'gemma3.rope.freq_base_swa') ?? ollama.localTheta ?? 10_000,
    ...(ollama.scales ? { rope_scaling: { rope_type: 'linear', factor: 8 } } : {}),
    ...(softCap ? { final_logit_softcapping: softCap } : {}),
  }
}

function graniteFields(gguf: GgufFile, headDim: number): Record<string, unknown> {
  // llama.cpp's switch for models whose heads nothing turns.
  if (ggufFlag(gguf, 'granite.rope.scaling.finetuned') === false) {
    throw unsupported(gguf, 'granite without rotary embedding is not supported; choose another model')
  }
  return {
    embedding_multiplier: ggufNumber(gguf, 'granite.embedding_scale') ?? 1,
    attention_multiplier: ggufNumber(gguf, 'granite.attention.scale') ?? 1 / Math.sqrt(headDim),
    residual_multiplier: ggufNumber(gguf, 'granite.residual_scale') ?? 1,
    logits_scaling: ggufNumber(gguf, 'granite.logit_scale') ?? 1,
  }
}

/** Files do not say it: every fourth layer has no rotation. */
function smollm3Fields(layers: number): Record<string, unknown> {
  const interval = 4
  return {
    no_rope_layer_interval: interval,
    no_rope_layers: Array.from({ length: layers }, (_, i) => ((i + 1) % interval === 0 ? 0 : 1)),
  }
}

/**
 * A Hugging Face config.json of a GGUF file's metadata, such as transformers loads. The presence of tensors
 * decides on tied embeddings and biases. Throws E_MODEL_FORMAT for missing or ill-typed metadata,
 * E_UNSUPPORTED_ARCH for models we cannot run.
 */
export async function configFromGguf(gguf: GgufFile): Promise<Record<string, unknown>> {
  const arch = ggufArchitecture(gguf)
  const hidden = ggufRequired(gguf, `${arch}.embedding_length`)
  const heads = ggufRequired(gguf, `${arch}.attention.head_count`)
  const context = ggufRequired(gguf, `${arch}.context_length`)
  const { headDim, rotated } = headDimensions(gguf, arch, hidden, heads)
  const gemma = arch === 'gemma3'
  const theta =
    ggufNumber(gguf, `${arch}.rope.freq_base`) ?? (gemma ? (ollamaGemma(gguf).theta ?? 1_000_000) : 10_000)
  const window = ggufNumber(gguf, `${arch}.attention.sliding_window`)
  const rotation = { rotated, theta, context }
  const type = modelType(gguf, arch, window)
  const own = (await longropeFields(gguf, arch, rotation)) ?? scalingFields(gguf, arch, context)
  const scaling = { ...own, ...(await factorFields(gguf, rotation, own)) }
  const embedding = gguf.tensors.get('token_embd.weight')
  if (!embedding) throw missingTensor(gguf, 'token_embd.weight')
  const bos = ggufNumber(gguf, 'tokenizer.ggml.bos_token_id')
  const ends = endTokens(gguf)
  return {
    architectures: [classes[type]],
    model_type: type,
    vocab_size: embedding.shape[0],
    hidden_size: hidden,
    intermediate_size: ggufRequired(gguf, `${arch}.feed_forward_length`),
    num_hidden_layers: ggufRequired(gguf, `${arch}.block_count`),
    num_attention_heads: heads,
    num_key_value_heads: ggufNumber(gguf, `${arch}.attention.head_count_kv`) ?? heads,
    head_dim: headDim,
    max_position_embeddings: context,
    rms_norm_eps: gemma
      ? (ggufNumber(gguf, 'gemma3.attention.layer_norm_rms_epsilon') ?? 1e-6)
      : ggufRequired(gguf, `${arch}.attention.layer_norm_rms_epsilon`),
    rope_theta: theta,
    ...(rotated === headDim ? {} : { partial_rotary_factor: partialRotaryFactor(headDim, rotated) }),
    ...scaling,
    tie_word_embeddings: !gguf.tensors.has('output.weight'),
    attention_bias: gguf.tensors.has('blk.0.attn_q.bias'),
    mlp_bias: gguf.tensors.has('blk.0.ffn_down.bias'),
    ...(type === 'mistral' ? { sliding_window: window ?? null } : {}),
    ...(type === 'ministral3' ? ministral3Fields(gguf, theta, scaling.rope_scaling) : {}),
    ...(type === 'phi3' ? phi3Fields(gguf, context) : {}),
    ...(type === 'qwen2' || type === 'qwen3' || type === 'smollm3' ? { use_sliding_window: false } : {}),
    ...(type === 'gemma3_text' ? gemmaFields(gguf, headDim, hidden / heads) : { hidden_act: 'silu' }),
    ...(type === 'granite' ? graniteFields(gguf, headDim) : {}),
    ...(type === 'smollm3' ? smollm3Fields(ggufRequired(gguf, `${arch}.block_count`)) : {}),
    ...(bos === undefined ? {} : { bos_token_id: bos }),
    ...(ends.length === 0 ? {} : { eos_token_id: ends.length === 1 ? ends[0] : ends }),
    torch_dtype: publishedType(gguf),
  }
}

export function isGgufType(type: string): type is (typeof ggufTypes)[number] {
  return ggufTypes.some((usable) => usable === type)
}
