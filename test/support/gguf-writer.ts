/** Values of GGUF metadata by their kind in the file. */
export type GgufField =
  | [key: string, kind: 'string', value: string]
  | [key: string, kind: 'u32' | 'i32' | 'f32' | 'u64' | 'u8', value: number]
  | [key: string, kind: 'bool', value: boolean]
  | [key: string, kind: 'strings', value: readonly string[]]
  | [key: string, kind: 'i32s' | 'f32s', value: readonly number[]]
  /** A value type and bytes of any kind, right or wrong. */
  | [key: string, kind: 'raw', value: { type: number; bytes: Uint8Array }]

/** One tensor; zeros of `byteLength` where no data is given. */
export interface GgufTensorSpec {
  name: string
  /** Innermost first, as in the file. */
  dimensions: number[]
  /** GGML's number of the type; 0 is F32. */
  type?: number
  data?: Uint8Array
  byteLength?: number
  /** Instead of the next free offset. */
  offset?: number
}

export interface GgufSpec {
  version?: number
  metadata?: readonly GgufField[]
  tensors?: readonly GgufTensorSpec[]
  alignment?: number
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}

/** A count or length: 32 bits in version 1, 64 later. */
const count = (version: number, value: number) => (version === 1 ? u32(value) : u64(value))

function string(version: number, value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([count(version, bytes.length), bytes])
}

function array(version: number, type: number, items: readonly Uint8Array[]): Buffer {
  return Buffer.concat([u32(9), u32(type), count(version, items.length), ...items])
}

/** Type number and value of a metadata entry. */
function encodeValue(version: number, field: GgufField): Buffer {
  const [, kind, value] = field
  switch (kind) {
    case 'string':
      return Buffer.concat([u32(8), string(version, value)])
    case 'u8':
      return Buffer.concat([u32(0), Buffer.from([value])])
    case 'u32':
      return Buffer.concat([u32(4), u32(value)])
    case 'i32':
      return Buffer.concat([u32(5), u32(value)])
    case 'f32':
      return Buffer.concat([u32(6), f32(value)])
    case 'u64':
      return Buffer.concat([u32(10), u64(value)])
    case 'bool':
      return Buffer.concat([u32(7), Buffer.from([value ? 1 : 0])])
    case 'strings':
      return array(
        version,
        8,
        value.map((item) => string(version, item)),
      )
    case 'i32s':
      return array(version, 5, value.map(u32))
    case 'f32s':
      return array(version, 6, value.map(f32))
    case 'raw':
      return Buffer.concat([u32(value.type), value.bytes])
  }
}

/** Magic, version and counts, which need not be true. */
export function ggufPreamble(version: number, tensors: number | bigint, metadata: number | bigint): Buffer {
  const size = (value: number | bigint) => (version === 1 ? u32(Number(value)) : u64(value))
  return Buffer.concat([Buffer.from('GGUF'), u32(version), size(tensors), size(metadata)])
}

/** A GGUF file's bytes. */
export function ggufBytes({ version = 3, metadata = [], tensors = [], alignment = 32 }: GgufSpec): Buffer {
  const padded = (length: number) => Math.ceil(length / alignment) * alignment
  const infos: Buffer[] = []
  const blobs: Buffer[] = []
  let end = 0
  for (const { name, dimensions, type = 0, data, byteLength, offset } of tensors) {
    const bytes = data ?? new Uint8Array(byteLength ?? dimensions.reduce((product, n) => product * n, 4))
    infos.push(
      Buffer.concat([
        string(version, name),
        u32(dimensions.length),
        ...dimensions.map((n) => count(version, n)),
        u32(type),
        u64(offset ?? end),
      ]),
    )
    const blob = Buffer.alloc(padded(bytes.length))
    blob.set(bytes)
    blobs.push(blob)
    end += blob.length
  }
  const header = Buffer.concat([
    ggufPreamble(version, tensors.length, metadata.length),
    ...metadata.map((field) => Buffer.concat([string(version, field[0]), encodeValue(version, field)])),
    ...infos,
  ])
  return Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length), ...blobs])
}

export interface TinyGgufOptions {
  architecture?: 'gemma3' | 'granite' | 'llama' | 'mistral3' | 'phi3' | 'qwen2' | 'qwen3' | 'smollm3'
  /** Replaces entries of the same key. */
  metadata?: readonly GgufField[]
  /** Keys left out. */
  without?: readonly string[]
  /** Added to the model's tensors. */
  tensors?: readonly GgufTensorSpec[]
  /** Tensor names left out. */
  withoutTensors?: readonly string[]
  version?: number
}

/** A whole tiny model: 1 layer, hidden 8, 2 heads of 4, 1 key-value head, intermediate 12, 3 tokens. */
export function tinyGguf(options: TinyGgufOptions = {}): Buffer {
  const arch = options.architecture ?? 'llama'
  const base: GgufField[] = [
    ['general.architecture', 'string', arch],
    [`${arch}.block_count`, 'u32', 1],
    [`${arch}.context_length`, 'u32', 64],
    [`${arch}.embedding_length`, 'u32', 8],
    [`${arch}.feed_forward_length`, 'u32', 12],
    [`${arch}.attention.head_count`, 'u32', 2],
    [`${arch}.attention.head_count_kv`, 'u32', 1],
    [`${arch}.attention.layer_norm_rms_epsilon`, 'f32', 1e-5],
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'gpt-2'],
    ['tokenizer.ggml.tokens', 'strings', ['<|end|>', 'a', 'b']],
    ['tokenizer.ggml.token_type', 'i32s', [3, 1, 1]],
    ['tokenizer.ggml.merges', 'strings', []],
    ['tokenizer.ggml.eos_token_id', 'u32', 0],
  ]
  const replaced = new Set(options.metadata?.map(([key]) => key))
  const left = new Set(options.without)
  const metadata = [
    ...base.filter(([key]) => !replaced.has(key) && !left.has(key)),
    ...(options.metadata ?? []),
  ]
  const tensors: GgufTensorSpec[] = [
    { name: 'token_embd.weight', dimensions: [8, 3] },
    { name: 'output_norm.weight', dimensions: [8] },
    { name: 'blk.0.attn_norm.weight', dimensions: [8] },
    { name: 'blk.0.ffn_norm.weight', dimensions: [8] },
    { name: 'blk.0.attn_q.weight', dimensions: [8, 8] },
    { name: 'blk.0.attn_k.weight', dimensions: [8, 4] },
    { name: 'blk.0.attn_v.weight', dimensions: [8, 4] },
    { name: 'blk.0.attn_output.weight', dimensions: [8, 8] },
    { name: 'blk.0.ffn_gate.weight', dimensions: [8, 12] },
    { name: 'blk.0.ffn_up.weight', dimensions: [8, 12] },
    { name: 'blk.0.ffn_down.weight', dimensions: [12, 8] },
  ]
  const dropped = new Set(options.withoutTensors)
  return ggufBytes({
    version: options.version ?? 3,
    metadata,
    tensors: [...tensors.filter(({ name }) => !dropped.has(name)), ...(options.tensors ?? [])],
  })
}
