import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gguf as libraryGguf } from '@huggingface/gguf'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ggufNumber, ggufNumbers, ggufStrings, readGguf } from '#lib/format/gguf.js'
import { configFromGguf } from '#lib/format/gguf-config.js'
import { ggufName, huggingFaceName, isInterleaved } from '#lib/format/gguf-names.js'
import { openModelSource } from '#lib/model-source.js'
import { type ExpectedError, throwsFlrcError } from './support/flrc-error.js'
import { ggufBytes, ggufPreamble, type TinyGgufOptions, tinyGguf, u32, u64 } from './support/gguf-writer.js'
import { fixture, smollm2Gguf, temporaryDirectory } from './support/paths.js'

const directory = temporaryDirectory()
const file = join(directory, 'x.gguf')

function openTiny(options: TinyGgufOptions) {
  writeFileSync(file, tinyGguf(options))
  return openModelSource(file)
}

/** The independent reader of the hub's own library; it asks nothing of a file's truth. */
async function sameAsLibrary(path: string): Promise<void> {
  const ours = await readGguf(path)
  const theirs = await libraryGguf(path, { allowLocalFile: true })
  assert.is(ours.tensors.size, theirs.tensorInfos.length)
  for (const { name, shape, offset } of theirs.tensorInfos) {
    const tensor = ours.tensors.get(name)
    assert.equal(tensor?.shape, shape.map(Number).reverse(), name)
    assert.is(tensor?.offset, Number(theirs.tensorDataOffset + offset), name)
  }
  // The library adds the preamble's numbers under names of its own, without a dot.
  const entries = Object.entries(theirs.metadata).filter(([key]) => key.includes('.'))
  assert.equal(
    [...ours.metadata.keys()],
    entries.map(([key]) => key),
  )
  for (const [key, value] of entries) {
    const own = ours.metadata.get(key)
    if (Array.isArray(value)) {
      assert.equal(typeof own === 'object' ? own.items() : own, value, key)
    } else if (typeof value === 'number') {
      // Ours is the shortest decimal of the same float32.
      assert.is(Math.fround(Number(own)), Math.fround(value), key)
    } else {
      assert.equal(own, typeof value === 'bigint' ? Number(value) : value, key)
    }
  }
}

for (const version of [1, 2, 3]) {
  test(`reads version ${version} as @huggingface/gguf does`, async () => {
    writeFileSync(
      file,
      tinyGguf({
        version,
        metadata: [
          ['x.u8', 'u8', 200],
          ['x.i32', 'i32', -5],
          ['x.u64', 'u64', 2 ** 40],
          ['x.bool', 'bool', true],
          ['x.text', 'string', 'häß 👍'],
          ['x.none', 'strings', []],
          ['x.floats', 'f32s', [0.5, -2, 3]],
          ['x.f32', 'f32', 1e-6],
        ],
      }),
    )
    await sameAsLibrary(file)
    const read = await readGguf(file)
    assert.is(ggufNumber(read, 'x.f32'), 1e-6)
    assert.equal(ggufNumbers(read, 'x.floats'), [0.5, -2, 3])
    assert.equal(ggufStrings(read, 'tokenizer.ggml.tokens'), ['<|end|>', 'a', 'b'])
  })
}

test('keeps a byte order mark in a token', async () => {
  writeFileSync(file, ggufBytes({ metadata: [['t', 'strings', ['\ufeff', '\ufeffa']]] }))
  assert.equal(ggufStrings(await readGguf(file), 't'), ['\ufeff', '\ufeffa'])
})

test('honours general.alignment', async () => {
  const tensors = [
    { name: 'a', dimensions: [3] },
    { name: 'b', dimensions: [5] },
  ]
  writeFileSync(file, ggufBytes({ metadata: [['general.alignment', 'u32', 128]], tensors, alignment: 128 }))
  const offsets = [...(await readGguf(file)).tensors.values()].map(({ offset }) => offset)
  assert.is(offsets.length, 2)
  assert.ok(offsets.every((offset) => offset % 128 === 0))
})

const vector = { name: 'a', dimensions: [64] }
const key = (text: string) => Buffer.concat([u64(text.length), Buffer.from(text)])
/** Header with one metadata entry of the given type and bytes. */
const oneValue = (type: number, ...bytes: Buffer[]) =>
  Buffer.concat([ggufPreamble(3, 0, 1), key('k'), u32(type), ...bytes])

const bad: [what: string, bytes: Buffer, expected: Partial<ExpectedError>][] = [
  ['empty file', Buffer.alloc(0), { message: /magic/ }],
  ['another magic number', Buffer.from('GGML'.padEnd(64, '\0')), { message: /magic/ }],
  ['magic alone', Buffer.from('GGUF'), { message: /cut/ }],
  ['version 0', ggufPreamble(0, 0, 0), { message: /version 0/ }],
  ['version 4', ggufPreamble(4, 0, 0), { message: /version 4/ }],
  ['big-endian', Buffer.concat([Buffer.from('GGUF\0\0\0\x03'), Buffer.alloc(16)]), { message: /big-endian/ }],
  ['2^63 tensors', ggufPreamble(3, 2n ** 63n, 0), { message: /tensors/ }],
  ['2^63 metadata entries', ggufPreamble(3, 0, 2n ** 63n), { message: /entries/ }],
  ['a million tensors in zeros', Buffer.concat([ggufPreamble(3, 1e6, 0), Buffer.alloc(3e7)]), {}],
  ['a string of 2^60 bytes', oneValue(8, u64(2n ** 60n)), { message: /cut/ }],
  ['an unknown metadata type', oneValue(77), { message: /unknown type 77/ }],
  ['an unknown array type', oneValue(9, u32(77), u64(1)), { message: /unknown type 77/ }],
  ['an array of 2^60 numbers', oneValue(9, u32(6), u64(2n ** 60n)), { message: /cut/ }],
  ['an array of 2^60 strings', oneValue(9, u32(8), u64(2n ** 60n), Buffer.alloc(80)), { message: /cut/ }],
  [
    'a million arrays of arrays in 100 bytes',
    oneValue(9, u32(9), u64(1e6), u32(9), u64(1e6), u32(0), u64(1e6), Buffer.alloc(40)),
    { message: /cut/ },
  ],
  [
    'arrays nested beyond reason',
    oneValue(9, ...Array.from({ length: 100 }, () => Buffer.concat([u32(9), u64(1)]))),
    { message: /nested/ },
  ],
  [
    'a key twice',
    ggufBytes({
      metadata: [
        ['a', 'u32', 1],
        ['a', 'u32', 2],
      ],
    }),
    { message: /twice/ },
  ],
  ['a tensor twice', ggufBytes({ tensors: [vector, vector] }), { tensor: 'a', message: /twice/ }],
  ['no dimensions', ggufBytes({ tensors: [{ name: 'a', dimensions: [] }] }), { message: /0 dimensions/ }],
  ['five dimensions', ggufBytes({ tensors: [{ name: 'a', dimensions: [1, 1, 1, 1, 1] }] }), { message: /5/ }],
  ['2^32 dimensions', ggufBytes({ tensors: [] }).fill(0), { message: /magic/ }],
  [
    'a size of 0',
    ggufBytes({ tensors: [{ name: 'a', dimensions: [0, 4] }] }),
    { tensor: 'a', message: /impossible/ },
  ],
  [
    'sizes that overflow',
    ggufBytes({ tensors: [{ name: 'a', dimensions: [2 ** 40, 2 ** 40], byteLength: 64 }] }),
    { tensor: 'a', message: /impossible/ },
  ],
  [
    'an offset past the end',
    ggufBytes({ tensors: [{ ...vector, offset: 1 << 30 }] }),
    { tensor: 'a', message: /past the end/ },
  ],
  [
    'an end past the end',
    ggufBytes({ tensors: [{ ...vector, byteLength: 32 }] }),
    { tensor: 'a', message: /cut/ },
  ],
  [
    'a misaligned offset',
    ggufBytes({ tensors: [{ ...vector, offset: 4, byteLength: 512 }] }),
    { tensor: 'a', message: /aligned/ },
  ],
  [
    'overlapping tensors',
    ggufBytes({ tensors: [vector, { ...vector, name: 'b', offset: 128 }] }),
    { tensor: 'b', message: /overlaps tensor a/ },
  ],
  [
    'rows that do not fill a block',
    ggufBytes({ tensors: [{ name: 'a', dimensions: [33], type: 8, byteLength: 128 }] }),
    { tensor: 'a', message: /Q8_0 blocks/ },
  ],
  ['an alignment of 0', ggufBytes({ metadata: [['general.alignment', 'u32', 0]] }), { message: /alignment/ }],
  ['an alignment of 33', ggufBytes({ metadata: [['general.alignment', 'u32', 33]] }), { message: /alignment/ }],
  ['a split file', ggufBytes({ metadata: [['split.count', 'u32', 2]] }), { message: /split/ }],
]

for (const [what, bytes, expected] of bad) {
  test(`refuses ${what}`, async () => {
    writeFileSync(file, bytes)
    await throwsFlrcError(() => readGguf(file), { code: 'E_MODEL_FORMAT', file, ...expected })
  })
}

test('large honest headers take a moment', async () => {
  const words = Array.from({ length: 300_000 }, (_, i) => `token number ${i}`)
  writeFileSync(file, ggufBytes({ metadata: [['t', 'strings', words]] }))
  const begin = performance.now()
  assert.equal(ggufStrings(await readGguf(file), 't')?.at(-1), 'token number 299999')
  assert.ok(performance.now() - begin < 5000)
})

test('says at every length that a truncated file is cut', async () => {
  const bytes = tinyGguf()
  // Zeros of padding may be missing, so the last tensor's own bytes bound the lengths tried.
  for (let length = 24; length < bytes.length - 32; length += 97) {
    writeFileSync(file, bytes.subarray(0, length))
    await throwsFlrcError(() => readGguf(file), { code: 'E_MODEL_FORMAT', file })
  }
})

test('names go to Hugging Face and back', () => {
  const pairs = [
    ['token_embd.weight', 'model.embed_tokens.weight'],
    ['output_norm.weight', 'model.norm.weight'],
    ['output.weight', 'lm_head.weight'],
    ['blk.0.attn_norm.weight', 'model.layers.0.input_layernorm.weight'],
    ['blk.12.attn_q.weight', 'model.layers.12.self_attn.q_proj.weight'],
    ['blk.3.attn_k.bias', 'model.layers.3.self_attn.k_proj.bias'],
    ['blk.3.attn_v.weight', 'model.layers.3.self_attn.v_proj.weight'],
    ['blk.3.attn_output.weight', 'model.layers.3.self_attn.o_proj.weight'],
    ['blk.3.attn_q_norm.weight', 'model.layers.3.self_attn.q_norm.weight'],
    ['blk.3.attn_k_norm.weight', 'model.layers.3.self_attn.k_norm.weight'],
    ['blk.3.ffn_norm.weight', 'model.layers.3.post_attention_layernorm.weight'],
    ['blk.3.ffn_gate.weight', 'model.layers.3.mlp.gate_proj.weight'],
    ['blk.3.ffn_up.weight', 'model.layers.3.mlp.up_proj.weight'],
    ['blk.3.ffn_down.weight', 'model.layers.3.mlp.down_proj.weight'],
  ] as const
  for (const [ggml, name] of pairs) {
    assert.is(huggingFaceName('llama', ggml), name)
    assert.is(ggufName('llama', name), ggml)
  }
  for (const strange of [
    'rope_freqs.weight',
    'blk.0.attn_qkv.weight',
    'blk.0.output.weight',
    'attn_q.weight',
    'x',
  ]) {
    assert.is(huggingFaceName('llama', strange), undefined)
  }
  const ofGemma = [
    ['blk.3.post_attention_norm.weight', 'model.layers.3.post_attention_layernorm.weight'],
    ['blk.3.ffn_norm.weight', 'model.layers.3.pre_feedforward_layernorm.weight'],
    ['blk.3.post_ffw_norm.weight', 'model.layers.3.post_feedforward_layernorm.weight'],
  ] as const
  for (const [ggml, name] of ofGemma) {
    assert.is(huggingFaceName('gemma3', ggml), name)
    assert.is(ggufName('gemma3', name), ggml)
  }
})

test('phi3 has several in one', () => {
  assert.is(huggingFaceName('phi3', 'blk.3.attn_qkv.weight'), 'model.layers.3.self_attn.qkv_proj.weight')
  assert.is(huggingFaceName('phi3', 'blk.3.ffn_up.weight'), 'model.layers.3.mlp.gate_up_proj.weight')
  assert.is(huggingFaceName('phi3', 'blk.3.ffn_down.weight'), 'model.layers.3.mlp.down_proj.weight')
})

test('only q and k of llama and its kin are interleaved, weights and biases', () => {
  assert.ok(isInterleaved('llama', 'blk.0.attn_q.weight'))
  assert.ok(isInterleaved('llama', 'blk.7.attn_k.bias'))
  assert.not(isInterleaved('llama', 'blk.0.attn_v.weight'))
  assert.not(isInterleaved('llama', 'blk.0.attn_q_norm.weight'))
  assert.not(isInterleaved('phi3', 'blk.0.attn_q.weight'))
  assert.ok(isInterleaved('granite', 'blk.0.attn_q.weight') && isInterleaved('smollm3', 'blk.0.attn_k.weight'))
  assert.not(isInterleaved('gemma3', 'blk.0.attn_q.weight'))
  assert.not(isInterleaved('qwen2', 'blk.0.attn_q.weight'))
  assert.not(isInterleaved('qwen3', 'blk.0.attn_k.weight'))
})

test('opens a llama file: shapes reversed, heads to undo the interleaving over, tied embeddings', async () => {
  const source = await openTiny({})
  const { config, tensors } = source
  assert.is(source.format, 'gguf')
  assert.equal(
    [config.heads, config.kvHeads, config.headDim, config.vocabSize, config.tieEmbeddings, config.rmsNormEps],
    [2, 1, 4, 3, true, 1e-5],
  )
  const q = tensors.get('model.layers.0.self_attn.q_proj.weight')
  const k = tensors.get('model.layers.0.self_attn.k_proj.weight')
  const down = tensors.get('model.layers.0.mlp.down_proj.weight')
  assert.equal([q?.shape, q?.interleavedHeads, q?.type], [[8, 8], 2, 'F32'])
  assert.equal([k?.shape, k?.interleavedHeads], [[4, 8], 1])
  assert.equal([down?.shape, down?.interleavedHeads], [[8, 12], undefined])
  assert.is(tensors.size, 11)
  assert.equal(config.eosTokenIds, [0])
  assert.equal(source.config.source.architectures, ['LlamaForCausalLM'])
})

test('output.weight unties the embeddings', async () => {
  const source = await openTiny({ tensors: [{ name: 'output.weight', dimensions: [8, 3] }] })
  assert.is(source.config.tieEmbeddings, false)
  assert.is(source.config.source.tie_word_embeddings, false)
  assert.ok(source.tensors.has('lm_head.weight'))
})

const qkvBiases = [
  { name: 'blk.0.attn_q.bias', dimensions: [8] },
  { name: 'blk.0.attn_k.bias', dimensions: [4] },
  { name: 'blk.0.attn_v.bias', dimensions: [4] },
]

test('qwen2: biases by their presence, nothing interleaved', async () => {
  const { config, tensors } = await openTiny({ architecture: 'qwen2', tensors: qkvBiases })
  assert.equal([config.architecture, config.qkvBias, config.outputBias], ['qwen2', true, false])
  assert.is(tensors.get('model.layers.0.self_attn.q_proj.bias')?.interleavedHeads, undefined)
  assert.ok(tensors.has('model.layers.0.self_attn.q_proj.bias'))
  assert.not(config.slidingWindow.some((window) => window > 0))
})

test('llama with biases: of q, k and v alone it is Qwen2 by another name; with o it is attention_bias', async () => {
  const three = await openTiny({ tensors: qkvBiases })
  assert.equal(
    [three.config.architecture, three.config.qkvBias, three.config.outputBias],
    ['qwen2', true, false],
  )
  assert.is(three.tensors.get('model.layers.0.self_attn.q_proj.bias')?.interleavedHeads, 2)
  const four = await openTiny({ tensors: [...qkvBiases, { name: 'blk.0.attn_output.bias', dimensions: [8] }] })
  assert.equal([four.config.architecture, four.config.qkvBias, four.config.outputBias], ['llama', true, true])
})

test('qwen3: head norms and a head dimension of its own', async () => {
  const { config, tensors } = await openTiny({
    architecture: 'qwen3',
    metadata: [
      ['qwen3.attention.key_length', 'u32', 6],
      ['qwen3.attention.value_length', 'u32', 6],
    ],
    tensors: [
      { name: 'blk.0.attn_q_norm.weight', dimensions: [6] },
      { name: 'blk.0.attn_k_norm.weight', dimensions: [6] },
    ],
  })
  assert.equal([config.headDim, config.qkNorm], [6, true])
  assert.ok(tensors.has('model.layers.0.self_attn.k_norm.weight'))
})

const norm = (name: string, width = 8) => ({ name: `blk.0.${name}.weight`, dimensions: [width] })

test('gemma3: norms of outputs, norms that hold 1 + w, and what llama.cpp knows by itself', async () => {
  const { config, tensors } = await openTiny({
    architecture: 'gemma3',
    metadata: [
      ['gemma3.attention.sliding_window', 'u32', 16],
      ['gemma3.rope.freq_base', 'f32', 100],
      ['gemma3.rope.scaling.type', 'string', 'linear'],
      ['gemma3.rope.scaling.factor', 'f32', 8],
    ],
    tensors: [
      norm('post_attention_norm'),
      norm('post_ffw_norm'),
      norm('attn_q_norm', 4),
      norm('attn_k_norm', 4),
    ],
  })
  assert.equal([config.architecture, config.slidingWindow, config.layerRope], ['gemma3_text', [16], [1]])
  assert.equal(
    config.ropes.map(({ frequencies }) => frequencies),
    [
      [1 / 8, Math.fround(0.1 / 8)],
      [1, Math.fround(0.01)],
    ],
  )
  assert.equal([config.activation, config.queryScale, config.tieEmbeddings], ['gelu-tanh', 1, true])
  const excess = [...tensors.values()].filter((tensor) => tensor.excess === 1).map(({ name }) => name)
  assert.equal(excess.sort(), [
    'model.layers.0.input_layernorm.weight',
    'model.layers.0.post_attention_layernorm.weight',
    'model.layers.0.post_feedforward_layernorm.weight',
    'model.layers.0.pre_feedforward_layernorm.weight',
    'model.layers.0.self_attn.k_norm.weight',
    'model.layers.0.self_attn.q_norm.weight',
    'model.norm.weight',
  ])
  assert.equal(config.source.architectures, ['Gemma3ForCausalLM'])
})

test('granite: its scales, and q and k interleaved', async () => {
  const { config, tensors } = await openTiny({
    architecture: 'granite',
    metadata: [
      ['granite.embedding_scale', 'f32', 12],
      ['granite.attention.scale', 'f32', 0.125],
      ['granite.residual_scale', 'f32', 0.25],
      ['granite.logit_scale', 'f32', 8],
    ],
  })
  const { embeddingScale, queryScale, residualScale, logitScale } = config
  assert.equal([embeddingScale, queryScale, residualScale, logitScale], [12, 0.25, 0.25, 0.125])
  assert.is(tensors.get('model.layers.0.self_attn.q_proj.weight')?.interleavedHeads, 2)
})

test('granite without rotary embedding is refused', () =>
  throwsFlrcError(
    () => openTiny({ architecture: 'granite', metadata: [['granite.rope.scaling.finetuned', 'bool', false]] }),
    { code: 'E_UNSUPPORTED_ARCH', message: /without rotary/ },
  ))

test('smollm3: every fourth layer is not turned', async () => {
  const { config } = await openTiny({ architecture: 'smollm3', metadata: [['smollm3.block_count', 'u32', 5]] })
  assert.equal(config.layerRope, [0, 0, 0, -1, 0])
})

test('a window makes a llama file a Mistral', async () => {
  const { config } = await openTiny({ metadata: [['llama.attention.sliding_window', 'u32', 16]] })
  assert.equal([config.architecture, config.slidingWindow], ['mistral', [16]])
})

test('rope base and scaling come from the metadata', async () => {
  const plain = await openTiny({ metadata: [['llama.rope.freq_base', 'f32', 100]] })
  assert.equal(plain.config.ropes[0]?.frequencies, [1, Math.fround(0.1)])
  const linear = await openTiny({
    metadata: [
      ['llama.rope.freq_base', 'f32', 100],
      ['llama.rope.scaling.type', 'string', 'linear'],
      ['llama.rope.scaling.factor', 'f32', 4],
    ],
  })
  assert.equal(linear.config.ropes[0]?.frequencies, [0.25, Math.fround(0.025)])
  const yarn = await openTiny({
    metadata: [
      ['llama.rope.scaling.type', 'string', 'yarn'],
      ['llama.rope.scaling.factor', 'f32', 4],
      ['llama.rope.scaling.original_context_length', 'u32', 16],
    ],
  })
  assert.ok(Math.abs((yarn.config.ropes[0]?.scale ?? 0) - (0.1 * Math.log(4) + 1)) < 1e-12)
})

interface RopeCase {
  name: string
  config: { head_dim: number; rope_theta: number; max_position_embeddings: number }
  invFreq: number[]
}

function ropeCase(name: string): RopeCase {
  const cases: RopeCase[] = JSON.parse(readFileSync(fixture('rope.json'), 'utf8'))
  const found = cases.find((c) => c.name === name)
  assert.ok(found)
  return found
}

/** A file with rope_freqs, for heads of `headDim`. */
function withFactors(headDim: number, theta: number, factors: number[]): TinyGgufOptions {
  const data = Buffer.alloc(4 * factors.length)
  factors.forEach((factor, i) => {
    data.writeFloatLE(factor, 4 * i)
  })
  return {
    metadata: [
      ['llama.attention.key_length', 'u32', headDim],
      ['llama.attention.value_length', 'u32', headDim],
      ['llama.rope.freq_base', 'f32', theta],
      ['llama.context_length', 'u32', 131072],
    ],
    tensors: [{ name: 'rope_freqs.weight', dimensions: [factors.length], data }],
  }
}

test("rope_freqs of Llama 3.1 become the published scaling, with transformers' frequencies", async () => {
  for (const name of ['llama3-8', 'llama3-32']) {
    const { config, invFreq } = ropeCase(name)
    const { head_dim: headDim, rope_theta: theta } = config
    const factors = invFreq.map((f, i) => theta ** ((-2 * i) / headDim) / f)
    const source = await openTiny(withFactors(headDim, theta, factors))
    const scaling = source.config.source.rope_scaling
    assert.equal(scaling, {
      rope_type: 'llama3',
      factor: Number(name.slice(7)),
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    })
    source.config.ropes[0]?.frequencies.forEach((frequency, i) => {
      const expected = invFreq[i] ?? Number.NaN
      assert.ok(Math.abs(frequency - expected) <= 1e-6 * expected, `${name} pair ${i}`)
    })
  }
})

test("rope_freqs of no other published scaling become longrope's, which transformers reads", async () => {
  const { config } = await openTiny(withFactors(4, 100, [2, 5]))
  assert.equal(config.ropes, [{ frequencies: [0.5, Math.fround(0.02)], scale: 1 }])
  assert.is(config.contextLength, 131_072)
  const { rope_scaling, flrc_rope_factors, original_max_position_embeddings } = config.source
  assert.equal([flrc_rope_factors, original_max_position_embeddings], [undefined, undefined])
  assert.equal(rope_scaling, {
    ...{ rope_type: 'longrope', short_factor: [2, 5], long_factor: [2, 5], attention_factor: 1 },
    original_max_position_embeddings: 131_072,
  })
})

test('rope_freqs beside another scaling are divided by as well', async () => {
  const { metadata = [], ...rest } = withFactors(4, 100, [2, 5])
  const { config } = await openTiny({
    metadata: [
      ...metadata,
      ['llama.rope.scaling.type', 'string', 'linear'],
      ['llama.rope.scaling.factor', 'f32', 4],
    ],
    ...rest,
  })
  assert.equal(config.ropes[0]?.frequencies, [0.125, Math.fround(0.005)])
})

test('the licence is what the file names, where that is an identifier', async () => {
  const licensed = async (license: string) =>
    (await openTiny({ metadata: [['general.license', 'string', license]] })).license()
  assert.equal(
    [await licensed('apache-2.0'), await licensed('see the file LICENSE')],
    ['apache-2.0', undefined],
  )
  assert.is(await (await openTiny({})).license(), undefined)
})

const badModels: [what: string, options: TinyGgufOptions, expected: ExpectedError][] = [
  [
    'another architecture',
    { metadata: [['general.architecture', 'string', 'gemma2']] },
    {
      code: 'E_UNSUPPORTED_ARCH',
      message: /gemma2.*gemma3, granite, llama, mistral3, phi3, qwen2, qwen3, smollm3/,
    },
  ],
  [
    'no architecture',
    { without: ['general.architecture'] },
    { code: 'E_UNSUPPORTED_ARCH', message: /architecture/ },
  ],
  [
    'experts',
    { metadata: [['llama.expert_count', 'u32', 8]] },
    { code: 'E_UNSUPPORTED_ARCH', message: /experts/ },
  ],
  ['no layer count', { without: ['llama.block_count'] }, { code: 'E_MODEL_FORMAT', message: /block_count/ }],
  [
    'a layer count of text',
    { metadata: [['llama.block_count', 'string', 'many']] },
    { code: 'E_MODEL_FORMAT', message: /block_count/ },
  ],
  [
    '4 billion layers',
    { metadata: [['llama.block_count', 'u32', 2 ** 32 - 1]] },
    { code: 'E_MODEL_FORMAT', message: /num_hidden_layers/ },
  ],
  [
    'heads that do not divide',
    { metadata: [['llama.attention.head_count', 'u32', 3]] },
    { code: 'E_MODEL_FORMAT' },
  ],
  [
    'a partly rotated head',
    { metadata: [['llama.rope.dimension_count', 'u32', 2]] },
    { code: 'E_UNSUPPORTED_ARCH', message: /rotated/ },
  ],
  [
    'longrope',
    { metadata: [['llama.rope.scaling.type', 'string', 'longrope']] },
    { code: 'E_UNSUPPORTED_ARCH', message: /longrope/ },
  ],
  [
    'no embeddings',
    { withoutTensors: ['token_embd.weight'] },
    { code: 'E_MODEL_FORMAT', tensor: 'token_embd.weight' },
  ],
  [
    'wrong rope factors',
    { tensors: [{ name: 'rope_freqs.weight', dimensions: [3] }] },
    { code: 'E_MODEL_FORMAT', tensor: 'rope_freqs.weight' },
  ],
  [
    'rope factors of 0',
    { tensors: [{ name: 'rope_freqs.weight', dimensions: [2] }] },
    { code: 'E_MODEL_FORMAT', tensor: 'rope_freqs.weight' },
  ],
  [
    'a type we have no kernel for',
    {
      withoutTensors: ['blk.0.ffn_up.weight'],
      tensors: [{ name: 'blk.0.ffn_up.weight', dimensions: [256, 12], type: 16, byteLength: 792 }],
    },
    { code: 'E_UNSUPPORTED_TYPE', tensor: 'blk.0.ffn_up.weight', message: /IQ2_XXS/ },
  ],
  [
    'a type nobody knows',
    {
      withoutTensors: ['blk.0.ffn_up.weight'],
      tensors: [{ name: 'blk.0.ffn_up.weight', dimensions: [8, 12], type: 99 }],
    },
    { code: 'E_UNSUPPORTED_TYPE', tensor: 'blk.0.ffn_up.weight', message: /type 99/ },
  ],
]

for (const [what, options, expected] of badModels) {
  test(`refuses a model with ${what}`, async () => {
    await throwsFlrcError(() => openTiny(options), { file, ...expected })
  })
}

test('an unsupported type in a tensor that is not used harms nothing', async () => {
  const { tensors } = await openTiny({ tensors: [{ name: 'extra.weight', dimensions: [8], type: 99 }] })
  assert.is(tensors.size, 11)
})

test('every supported type has its size', async () => {
  const cases: { type: string; ggmlType: number; count: number; bytes: string }[] = JSON.parse(
    readFileSync(fixture('dequant.json'), 'utf8'),
  )
  assert.is(cases.length, 14)
  for (const { type, ggmlType, count, bytes } of cases) {
    const data = Buffer.from(bytes, 'base64')
    writeFileSync(file, ggufBytes({ tensors: [{ name: 'a', dimensions: [count], type: ggmlType, data }] }))
    const tensor = (await readGguf(file)).tensors.get('a')
    assert.equal([tensor?.type, tensor?.byteLength], [type, data.length])
  }
})

if (existsSync(smollm2Gguf)) {
  test('SmolLM2: as @huggingface/gguf reads it, with the published config', async () => {
    await sameAsLibrary(smollm2Gguf)
    const config = await configFromGguf(await readGguf(smollm2Gguf))
    assert.equal(config, {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      vocab_size: 49152,
      hidden_size: 576,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      head_dim: 64,
      hidden_act: 'silu',
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      tie_word_embeddings: true,
      attention_bias: false,
      mlp_bias: false,
      bos_token_id: 1,
      eos_token_id: [2, 0],
      torch_dtype: 'bfloat16',
    })
    const { tensors, fileBytes } = await openModelSource(smollm2Gguf)
    assert.equal([tensors.size, fileBytes], [272, 98_362_432])
  })
} else {
  console.log('skipped: SmolLM2 as GGUF, missing ../shared/models/smollm2-135m-instruct')
}

test.run()
