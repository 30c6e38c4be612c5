import { open, readFile } from 'node:fs/promises'
import path from 'node:path'
import { ggufName, isInterleaved } from '#lib/format/gguf-names.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import { type GgufField, type GgufTensorSpec, ggufBytes } from '../../test/support/gguf-writer.js'

const architecture = 'llama'
/** GGML's numbers of types. */
const ggmlTypes = { F32: 0, BF16: 30 } as const
/** tokenizer.ggml.token_type */
const tokenTypes = { normal: 1, control: 3 } as const

interface Config {
  hidden_size: number
  intermediate_size: number
  max_position_embeddings: number
  num_attention_heads: number
  num_hidden_layers: number
  num_key_value_heads: number
  rms_norm_eps: number
  rope_theta: number
  eos_token_id: number
}

interface TokenizerJson {
  model: { vocab: Record<string, number>; merges: [string, string][] }
  added_tokens: { id: number }[]
}

/** The embedded model, of bf16 tensors, as the GGUF file that llama.cpp's converter would write. */
export async function embeddedGguf(directory: string): Promise<Buffer> {
  const json = async (name: string) => JSON.parse(await readFile(path.join(directory, name), 'utf8'))
  const config = (await json('config.json')) as Config
  return ggufBytes({
    metadata: [...modelFields(config), ...tokenizerFields(await json('tokenizer.json'), config)],
    tensors: await tensors(path.join(directory, 'model.safetensors'), config),
  })
}

function modelFields(config: Config): GgufField[] {
  return [
    ['general.architecture', 'string', architecture],
    [`${architecture}.block_count`, 'u32', config.num_hidden_layers],
    [`${architecture}.context_length`, 'u32', config.max_position_embeddings],
    [`${architecture}.embedding_length`, 'u32', config.hidden_size],
    [`${architecture}.feed_forward_length`, 'u32', config.intermediate_size],
    [`${architecture}.attention.head_count`, 'u32', config.num_attention_heads],
    [`${architecture}.attention.head_count_kv`, 'u32', config.num_key_value_heads],
    [`${architecture}.attention.layer_norm_rms_epsilon`, 'f32', config.rms_norm_eps],
    [`${architecture}.rope.freq_base`, 'f32', config.rope_theta],
  ]
}

function tokenizerFields({ model, added_tokens }: TokenizerJson, config: Config): GgufField[] {
  const tokens = Object.entries(model.vocab).sort(([, a], [, b]) => a - b)
  const control = new Set(added_tokens.map(({ id }) => id))
  return [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'smollm'],
    ['tokenizer.ggml.tokens', 'strings', tokens.map(([token]) => token)],
    [
      'tokenizer.ggml.token_type',
      'i32s',
      tokens.map(([, id]) => (control.has(id) ? tokenTypes.control : tokenTypes.normal)),
    ],
    ['tokenizer.ggml.merges', 'strings', model.merges.map((pair) => pair.join(' '))],
    ['tokenizer.ggml.eos_token_id', 'u32', config.eos_token_id],
    ['tokenizer.ggml.add_bos_token', 'bool', false],
  ]
}

async function tensors(file: string, config: Config): Promise<GgufTensorSpec[]> {
  const stored = await readSafetensors(file)
  const handle = await open(file)
  try {
    const specs: GgufTensorSpec[] = []
    for (const { name, shape, offset, byteLength } of stored.tensors.values()) {
      const ggml = ggufName(architecture, name)
      if (ggml === undefined) throw new Error(`${name} has no name in GGUF`)
      const data = Buffer.alloc(byteLength)
      await handle.read(data, 0, byteLength, offset)
      const heads = ggml.includes('attn_q') ? config.num_attention_heads : config.num_key_value_heads
      const rows = isInterleaved(architecture, ggml) ? interleaved(data, shape[0] ?? 0, heads) : data
      const dimensions = [...shape].reverse()
      // llama.cpp wants norms in f32.
      specs.push(
        shape.length === 1
          ? { name: ggml, dimensions, type: ggmlTypes.F32, data: widened(rows) }
          : { name: ggml, dimensions, type: ggmlTypes.BF16, data: rows },
      )
    }
    return specs
  } finally {
    await handle.close()
  }
}

/** Each head's rows, two halves for the rotation, as pairs. */
function interleaved(data: Buffer, rows: number, heads: number): Buffer {
  const rowBytes = data.length / rows
  const half = rows / heads / 2
  return Buffer.concat(
    Array.from({ length: rows }, (_, row) => {
      const [head, within] = [Math.floor(row / (2 * half)), row % (2 * half)]
      const from = head * 2 * half + (within % 2) * half + (within >> 1)
      return data.subarray(from * rowBytes, (from + 1) * rowBytes)
    }),
  )
}

function widened(bf16: Buffer): Buffer {
  const wide = Buffer.alloc(bf16.length * 2)
  for (let i = 0; i < bf16.length; i += 2) bf16.copy(wide, i * 2 + 2, i, i + 2)
  return wide
}
