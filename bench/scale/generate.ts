import { copyFile, mkdir, open, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { fused } from '#lib/checkpoint/fuse.js'
import { writeWeights } from '#lib/checkpoint/weights.js'
import { modelConfig } from '#lib/format/config.js'
import { projectionNames } from '#lib/format/projections.js'
import type { HeaderEntry } from '#lib/format/safetensors.js'
import type { ModelConfig } from '#lib/format/types.js'
import type { ModelShape } from './shapes.js'

const tiny = fileURLToPath(new URL('../../../../models/tiny', import.meta.url))
/** Of the embedded model's tokenizer, which the generated model borrows. */
const tokenizerVocabulary = 1536
/** Draws of a normal distribution that a tensor's values are picked from. */
const tableSize = 1 << 16
/** Values written at once. */
const chunk = 1 << 20

/** config.json of a shape. */
export function sourceConfig(shape: ModelShape): Record<string, unknown> {
  return {
    model_type: shape.architecture,
    vocab_size: shape.vocab,
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    max_position_embeddings: shape.context,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    sliding_window: null,
    hidden_act: 'silu',
    tie_word_embeddings: shape.tied,
    torch_dtype: 'bfloat16',
    bos_token_id: 0,
    eos_token_id: 2,
  }
}

interface RandomTensor extends HeaderEntry {
  /** Standard deviation of the values; undefined where all are 1. */
  deviation: number | undefined
}

function tensorsOf(config: ModelConfig): RandomTensor[] {
  const { hiddenSize, vocabSize, headDim } = config
  const tensor = (name: string, shape: number[], deviation?: number): RandomTensor => ({
    ...{ name, shape, deviation, type: 'BF16' },
    byteLength: 2 * shape.reduce((product, n) => product * n, 1),
  })
  // Logits of unit scale, and outputs of every projection of the scale of its inputs.
  const matrix = (name: string, rows: number, columns: number) =>
    tensor(name, [rows, columns], 1 / Math.sqrt(columns))
  const { qkvBias, outputBias, mlpBias, qkNorm, outputNorms } = config
  const biased = (kind: string) => ('qkv'.includes(kind) ? qkvBias : kind === 'o' ? outputBias : mlpBias)
  const layers = Array.from({ length: config.layers }, (_, i) => [
    tensor(`model.layers.${i}.input_layernorm.weight`, [hiddenSize]),
    tensor(`model.layers.${i}.post_attention_layernorm.weight`, [hiddenSize]),
    ...(outputNorms ? ['pre', 'post'] : []).map((place) =>
      tensor(`model.layers.${i}.${place}_feedforward_layernorm.weight`, [hiddenSize]),
    ),
    ...(qkNorm ? ['q', 'k'] : []).map((kind) =>
      tensor(`model.layers.${i}.self_attn.${kind}_norm.weight`, [headDim]),
    ),
  ])
  const projections = projectionNames(config).flatMap(({ name, kind, out, in: inputs }) => [
    matrix(`${name}.weight`, out, inputs),
    ...(biased(kind) ? [tensor(`${name}.bias`, [out], 0.02)] : []),
  ])
  return [
    matrix('model.embed_tokens.weight', vocabSize, hiddenSize),
    ...layers.flat(),
    ...projections,
    tensor('model.norm.weight', [hiddenSize]),
    ...(config.tieEmbeddings ? [] : [matrix('lm_head.weight', vocabSize, hiddenSize)]),
  ]
}

/** 32 random bits a call (xorshift32, Marsaglia 2003). */
export function randomBits(seed: number): () => number {
  // A state of 0 would stay 0; multiplying spreads seeds that lie close together.
  let state = Math.imul(seed + 1, 0x9e3779b1) | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

/** Normal draws of this deviation as BF16. [tableSize] */
function normalTable(deviation: number, next: () => number): Uint16Array {
  const uniform = () => (next() + 0.5) / 2 ** 32
  const floats = Float32Array.from(
    { length: tableSize },
    () => deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  )
  return Uint16Array.from(new Uint32Array(floats.buffer), (bits) => (bits + 0x8000) >>> 16)
}

/**
 * Writes a Hugging Face directory of this shape with seeded random weights (BF16, normal, 1 / sqrt(fan-in)), one
 * stretch of a tensor after another, so that memory does not grow with the model. The tokenizer is the embedded
 * model's: the vocabulary holds 1536 tokens at least.
 */
export async function generateModel(
  directory: string,
  shape: ModelShape,
  { seed = 0, shardBytes }: { seed?: number; shardBytes?: number } = {},
): Promise<void> {
  if (shape.vocab < tokenizerVocabulary) {
    throw new RangeError(
      `a vocabulary of ${shape.vocab} is smaller than the tokenizer's ${tokenizerVocabulary}`,
    )
  }
  await mkdir(directory, { recursive: true })
  const config = sourceConfig(shape)
  await writeFile(path.join(directory, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
    await copyFile(path.join(tiny, file), path.join(directory, file))
  }
  const parsed = modelConfig(config, undefined, directory)
  const tensors = new Map(tensorsOf(parsed).map((one) => [one.name, one]))
  const seeds = new Map([...tensors.keys()].map((name, index) => [name, seed * 65_537 + index]))
  const writeTensors = async (file: string, names: string[], offsets: Float64Array) => {
    const handle = await open(file, 'r+')
    try {
      for (const [i, name] of names.entries()) {
        const { byteLength, deviation } = tensors.get(name) as RandomTensor
        const next = randomBits(seeds.get(name) ?? 0)
        const table = deviation === undefined ? undefined : normalTable(deviation, next)
        let position = offsets[i] ?? 0
        for (let left = byteLength / 2; left > 0; left -= chunk) {
          const values = new Uint16Array(Math.min(left, chunk))
          if (table) fill(values, table, next)
          else values.fill(0x3f80)
          position += (await handle.write(new Uint8Array(values.buffer), 0, undefined, position)).bytesWritten
        }
      }
    } finally {
      await handle.close()
    }
  }
  const files = fused({ entries: [...tensors.values()], writeTensors }, parsed)
  await writeWeights(directory, files.entries, files.writeTensors, { shardBytes })
}

function fill(values: Uint16Array, table: Uint16Array, next: () => number): void {
  for (let i = 0; i < values.length; i += 2) {
    const bits = next()
    values[i] = table[bits & 0xffff] as number
    // Beyond an odd end nothing is written.
    values[i + 1] = table[bits >>> 16] as number
  }
}

/** Windows of uniformly drawn tokens. */
export function randomWindows(vocab: number, samples: number, seqLen: number, seed: number): Int32Array[] {
  const next = randomBits(seed)
  return Array.from({ length: samples }, () => Int32Array.from({ length: seqLen }, () => next() % vocab))
}
