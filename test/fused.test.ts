// Phi-3: projections that its files fuse, and longrope, from files to results, against PyTorch.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readBytes } from '#lib/format/files.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import { calibrate, complete, compress, exportModel, Model } from '#lib/index.js'
import { openModelSource } from '#lib/model-source.js'
import {
  assertLogits,
  assertScores,
  distribution,
  expectedArrays,
  modelDirectory,
  windowsOf,
} from './support/fixture-model.js'
import { type ExpectedError, rejects, throwsFlrcError } from './support/flrc-error.js'
import { type GgufTensorSpec, tinyGguf } from './support/gguf-writer.js'
import { fixture, temporaryDirectory } from './support/paths.js'
import { safetensorsBytes, type TestTensor } from './support/safetensors-writer.js'

const root = temporaryDirectory()
const directories = Object.fromEntries(
  ['phi3', 'phi3-longrope', 'phi3-partial'].map((variant) => [
    variant,
    modelDirectory(join(root, variant), variant),
  ]),
)

const results = suite('against PyTorch')

for (const [what, variant, file] of [
  ['safetensors', 'phi3', directories.phi3],
  ['safetensors, longrope', 'phi3-longrope', directories['phi3-longrope']],
  ['GGUF in blocks, longrope', 'phi3-longrope', fixture('phi3-longrope', 'model.gguf')],
  ['safetensors, partly rotated', 'phi3-partial', directories['phi3-partial']],
  ['GGUF, partly rotated', 'phi3-partial', fixture('phi3-partial', 'model.gguf')],
] as const) {
  results(`${what}: logits, losses, greedy tokens, scores and curves`, async () => {
    const model = await Model.load(file ?? '', { dtype: 'f32' })
    const expected = await expectedArrays(variant)
    const windows = await windowsOf(variant)
    const length = windows[0]?.length ?? 0
    await assertLogits(model, variant, [
      [0, 1],
      [1, 12],
      [2, 25],
      [3, length],
    ])

    const { values: greedy } = await expected('greedy')
    const written = await complete(
      model.generate(windows[0] ?? [], { maxTokens: greedy.length, temperature: 0 }),
    )
    assert.equal(written.tokenIds, Array.from(greedy))

    const calibration = await calibrate(model, {
      ...{ calibration: windows, samples: windows.length, seqLen: length },
      ...{ labels: 'data', shrinkage: { inputs: 0, gradients: 0 } },
    })
    const { values: loss } = await expected('loss')
    assert.ok(Math.abs(calibration.meanLoss - (loss[0] ?? 0)) < 1e-5)
    await assertScores(calibration, variant)
    for (const [index, { name }] of model.projections.entries()) {
      const { values: curve } = await expected(`${name}.curve.two-sided`)
      const most = Math.max(...curve)
      assert.is(calibration.curves[index]?.length, curve.length)
      curve.forEach((wanted, rank) => {
        const off = Math.abs((calibration.curves[index]?.[rank] ?? Number.NaN) - wanted)
        assert.ok(off <= 1e-3 * wanted + 1e-6 * most, `${name}, rank ${rank}: off by ${off}`)
      })
    }
    calibration.dispose()
    model.dispose()
  })
}

const lengths = suite('longrope')

lengths('offers the positions that its short factors are for', async () => {
  const model = await Model.load(directories['phi3-longrope'] ?? '')
  assert.is(model.config.contextLength, 64)
  assert.is(model.config.source.max_position_embeddings, 256)
  await complete(model.generate(new Int32Array(60).fill(3), { maxTokens: 4 }))
  await rejects(complete(model.generate(new Int32Array(60).fill(3), { maxTokens: 5 })), 'E_CONTEXT')
  model.dispose()
})

for (const variant of ['phi3-longrope', 'phi3-partial']) {
  lengths(`a GGUF file says all that the published config does: ${variant}`, async () => {
    const { config, tensors } = await openModelSource(fixture(variant, 'model.gguf'))
    const published = JSON.parse(readFileSync(fixture(variant, 'config.json'), 'utf8'))
    const { source, ...parsed } = config
    const { source: _, ...wanted } = (await openModelSource(directories[variant] ?? '')).config
    // And </s>, which ends a text where it is a control token.
    assert.equal(parsed, { ...wanted, eosTokenIds: [1, 2, 5] })
    const same = [
      'architectures',
      'model_type',
      'max_position_embeddings',
      'partial_rotary_factor',
      'pad_token_id',
    ]
    for (const key of same) assert.equal(source[key], published[key], key)
    assert.is(source.original_max_position_embeddings, 64)
    const { type: _type, ...factors } = published.rope_scaling
    assert.equal(source.rope_scaling, { rope_type: 'longrope', ...factors })
    assert.is(tensors.get('model.layers.0.mlp.up_proj.weight')?.type, 'Q8_0')
  })
}

const round = suite('compressed, saved, exported')

/** All tensors of a file by name, with their bytes. */
async function contents(directory: string) {
  const { tensors } = await readSafetensors(join(directory, 'model.safetensors'))
  const entries = [...tensors.values()].map(async ({ name, file, offset, byteLength, dtype, shape }) => {
    return [
      name,
      { dtype, shape, bytes: (await readBytes(file, offset, byteLength)).toString('base64') },
    ] as const
  })
  return Object.fromEntries((await Promise.all(entries)).sort(([a], [b]) => (a < b ? -1 : 1)))
}

round('an export holds the very tensors that transformers saved', async () => {
  for (const [variant, from] of [
    ['phi3', directories.phi3],
    ['phi3-longrope', fixture('phi3-longrope', 'model.gguf')],
    ['phi3-partial', fixture('phi3-partial', 'model.gguf')],
  ] as const) {
    const model = await Model.load(from ?? '', { dtype: 'f32' })
    const to = join(root, `${variant}-export`)
    await exportModel(model, to)
    assert.equal(await contents(to), await contents(fixture(variant)))
    const { auto_map, architectures } = JSON.parse(readFileSync(join(to, 'config.json'), 'utf8'))
    assert.equal([auto_map, architectures], [undefined, ['Phi3ForCausalLM']])
    model.dispose()
  }
})

round('a checkpoint has every projection on its own, and its export is the same model fused', async () => {
  const model = await Model.load(directories.phi3 ?? '', { dtype: 'f32' })
  const { values } = await (await expectedArrays('phi3'))('tokens')
  const text = Int32Array.from(values.subarray(0, 40))
  const small = await compress(model, { keep: 0.8, calibration: [text], dtype: 'f32', heldOut: 0 })
  const checkpoint = join(root, 'small')
  await small.save(checkpoint)
  const names = Object.keys(await contents(checkpoint))
  assert.ok(names.some((name) => /self_attn\.[qkv]_proj\.P\.0$/.test(name)))
  assert.not(names.some((name) => /qkv_proj|gate_up_proj/.test(name)))

  const exported = join(root, 'small-export')
  const loaded = await Model.load(checkpoint)
  await exportModel(loaded, exported)
  const fused = await contents(exported)
  assert.equal(fused['model.layers.1.self_attn.qkv_proj.weight']?.shape, [64, 32])
  assert.equal(fused['model.layers.1.mlp.gate_up_proj.weight']?.shape, [96, 32])
  const dense = await Model.load(exported, { dtype: 'f32' })
  const prompt = text.subarray(0, 9)
  const [a, b, c] = [
    await distribution(small, prompt),
    await distribution(loaded, prompt),
    await distribution(dense, prompt),
  ]
  assert.equal(a, b)
  a.forEach((value, token) => {
    assert.ok(Math.abs(value - (c[token] ?? Number.NaN)) < 1e-4, `token ${token}`)
  })
  const far = await distribution(model, prompt)
  assert.ok(a.some((value, token) => Math.abs(value - (far[token] ?? 0)) > 1e-2))
  for (const one of [model, small, loaded, dense]) one.dispose()
})

const reading = suite('files')

const qkv = 'model.layers.0.self_attn.qkv_proj.weight'
const gateUp = 'model.layers.1.mlp.gate_up_proj.weight'

/** A directory of the phi3 fixture whose tensors are changed; in as many shards as given. */
async function rewritten(
  name: string,
  change: (tensors: TestTensor[]) => TestTensor[],
  shards = 1,
): Promise<string> {
  const directory = join(root, name)
  mkdirSync(directory)
  for (const file of ['config.json', 'tokenizer.json']) {
    copyFileSync(join(directories.phi3 ?? '', file), join(directory, file))
  }
  const { tensors } = await readSafetensors(fixture('phi3', 'model.safetensors'))
  const read = [...tensors.values()].map(async ({ file, offset, byteLength, ...rest }) => ({
    ...{ name: rest.name, shape: rest.shape },
    data: await readBytes(file, offset, byteLength),
  }))
  const changed = change(await Promise.all(read))
  if (shards === 1) writeFileSync(join(directory, 'model.safetensors'), safetensorsBytes(changed))
  const weight_map: Record<string, string> = {}
  for (let shard = 0; shards > 1 && shard < shards; shard++) {
    const part = changed.filter((_, i) => i % shards === shard)
    for (const { name: tensor } of part) weight_map[tensor] = `part-${shard}.safetensors`
    writeFileSync(join(directory, `part-${shard}.safetensors`), safetensorsBytes(part))
  }
  if (shards > 1) writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify({ weight_map }))
  return directory
}

reading('fused tensors are found in shards, and separate ones instead of them', async () => {
  const prompt = Int32Array.of(3, 14, 15, 92)
  const whole = await Model.load(directories.phi3 ?? '', { dtype: 'f32' })
  const wanted = await distribution(whole, prompt)
  const part = ({ name, shape, data }: TestTensor, as: string, begin: number, rows: number): TestTensor => {
    const rowBytes = 4 * (shape[1] ?? 0)
    return {
      name: name.replace('qkv_proj', as),
      shape: [rows, shape[1] ?? 0],
      data: data?.subarray(begin * rowBytes, (begin + rows) * rowBytes) ?? new Uint8Array(),
    }
  }
  const apart = (tensor: TestTensor) =>
    tensor.name.includes('qkv_proj')
      ? [part(tensor, 'q_proj', 0, 32), part(tensor, 'k_proj', 32, 16), part(tensor, 'v_proj', 48, 16)]
      : [tensor]
  for (const directory of [
    await rewritten('sharded', (tensors) => tensors, 3),
    await rewritten('separate', (tensors) => tensors.flatMap(apart)),
  ]) {
    const model = await Model.load(directory, { dtype: 'f32' })
    assert.equal(await distribution(model, prompt), wanted)
    model.dispose()
  }
  whole.dispose()
})

const broken: [what: string, change: (tensors: TestTensor[]) => TestTensor[], expected: ExpectedError][] = [
  [
    'a fused tensor of too many rows',
    (tensors) => tensors.map((t) => (t.name === qkv ? { name: qkv, shape: [80, 32] } : t)),
    {
      code: 'E_MODEL_FORMAT',
      tensor: qkv,
      message: /\[80, 32\], expected \[64, 32\].*q \(32\), k \(16\), v \(16\)/,
    },
  ],
  [
    'a fused tensor of other columns',
    (tensors) => tensors.map((t) => (t.name === gateUp ? { name: gateUp, shape: [96, 16] } : t)),
    { code: 'E_MODEL_FORMAT', tensor: gateUp, message: /expected \[96, 32\]/ },
  ],
  [
    'a fused tensor of three dimensions',
    (tensors) => tensors.map((t) => (t.name === gateUp ? { name: gateUp, shape: [2, 48, 32] } : t)),
    { code: 'E_MODEL_FORMAT', tensor: gateUp, message: /expected \[96, 32\]/ },
  ],
  [
    'a fused tensor missing',
    (tensors) => tensors.filter(({ name }) => name !== gateUp),
    { code: 'E_MODEL_FORMAT', tensor: gateUp, message: /missing/ },
  ],
  [
    'one of its parts beside it',
    (tensors) => [...tensors, { name: qkv.replace('qkv', 'k'), shape: [16, 32] }],
    { code: 'E_MODEL_FORMAT', tensor: qkv, message: /k_proj, which is there on its own too/ },
  ],
  [
    'two spellings of one',
    (tensors) => [...tensors, { name: qkv.replace('model.', ''), shape: [64, 32] }],
    { code: 'E_MODEL_FORMAT', tensor: qkv.replace('model.', ''), message: new RegExp(`${qkv} and layers`) },
  ],
  [
    'integers in a fused tensor',
    (tensors) => tensors.map((t) => (t.name === qkv ? { name: qkv, dtype: 'I8', shape: [64, 32] } : t)),
    { code: 'E_UNSUPPORTED_TYPE', tensor: qkv },
  ],
]
for (const [what, change, expected] of broken) {
  reading(`refuses ${what}`, async () => {
    const directory = await rewritten(what, change)
    await throwsFlrcError(() => openModelSource(directory), {
      file: join(directory, 'model.safetensors'),
      ...expected,
    })
  })
}

reading('names the file’s tensor, whichever of its parts is wrong', async () => {
  const poisoned = (tensor: TestTensor) => {
    const data = Buffer.from(tensor.data ?? [])
    data.writeFloatLE(Number.NaN, 4 * 32 * 50)
    return { ...tensor, data }
  }
  const nan = await rewritten('nan', (tensors) => tensors.map((t) => (t.name === qkv ? poisoned(t) : t)))
  const file = join(nan, 'model.safetensors')
  await throwsFlrcError(() => Model.load(nan), { code: 'E_NUMERIC', file, tensor: qkv })
  const cut = await rewritten('cut', (tensors) => tensors)
  const weights = join(cut, 'model.safetensors')
  writeFileSync(weights, readFileSync(weights).subarray(0, -4))
  await throwsFlrcError(() => Model.load(cut), {
    code: 'E_MODEL_FORMAT',
    file: weights,
    message: /the file is cut/,
  })
})

const ggufFile = join(root, 'x.gguf')
const separate = ['attn_q', 'attn_k', 'attn_v', 'ffn_gate', 'ffn_up'].map((name) => `blk.0.${name}.weight`)

function openPhi3(fused: GgufTensorSpec[], more: Parameters<typeof tinyGguf>[0] = {}) {
  const without = { architecture: 'phi3', withoutTensors: separate } as const
  writeFileSync(ggufFile, tinyGguf({ ...without, ...more, tensors: [...fused, ...(more.tensors ?? [])] }))
  return openModelSource(ggufFile)
}
const tinyQkv = { name: 'blk.0.attn_qkv.weight', dimensions: [8, 16] }
const tinyUp = { name: 'blk.0.ffn_up.weight', dimensions: [8, 24] }

reading('GGUF: attn_qkv and ffn_up hold several, in row blocks of any type', async () => {
  const { tensors, config } = await openPhi3([tinyQkv, tinyUp])
  const places = ['self_attn.q', 'self_attn.k', 'self_attn.v', 'mlp.gate', 'mlp.up'].map((name) => {
    const found = tensors.get(`model.layers.0.${name}_proj.weight`)
    return [found?.shape, found?.byteLength, found?.interleavedHeads, found?.storedName]
  })
  assert.equal(places, [
    [[8, 8], 256, undefined, tinyQkv.name],
    [[4, 8], 128, undefined, tinyQkv.name],
    [[4, 8], 128, undefined, tinyQkv.name],
    [[12, 8], 384, undefined, tinyUp.name],
    [[12, 8], 384, undefined, tinyUp.name],
  ])
  const at = (name: string) => tensors.get(`model.layers.0.${name}_proj.weight`)?.offset ?? 0
  assert.equal([at('self_attn.k') - at('self_attn.q'), at('self_attn.v') - at('self_attn.q')], [256, 384])
  assert.is(at('mlp.up') - at('mlp.gate'), 384)
  assert.equal([config.architecture, config.slidingWindow, config.contextLength], ['phi3', [0], 64])
})

reading('GGUF: refuses fused tensors that do not fit', async () => {
  await throwsFlrcError(() => openPhi3([{ ...tinyQkv, dimensions: [8, 15] }, tinyUp]), {
    ...{ code: 'E_MODEL_FORMAT', file: ggufFile, tensor: tinyQkv.name },
    message: /\[15, 8\], expected \[16, 8\]/,
  })
  await throwsFlrcError(() => openPhi3([tinyQkv, tinyUp, { ...tinyQkv, name: 'blk.00.attn_qkv.weight' }]), {
    ...{ code: 'E_MODEL_FORMAT', file: ggufFile, tensor: 'blk.00.attn_qkv.weight' },
    message: /blk\.0\.attn_qkv\.weight and blk\.00\.attn_qkv\.weight are both/,
  })
  await throwsFlrcError(() => openPhi3([tinyQkv]), {
    code: 'E_MODEL_FORMAT',
    message: /gate_up_proj.* missing/,
  })
  await throwsFlrcError(
    () => openPhi3([tinyQkv, tinyUp], { withoutTensors: separate.filter((name) => !name.includes('attn_v')) }),
    { code: 'E_MODEL_FORMAT', tensor: tinyQkv.name, message: /v_proj, which is there on its own too/ },
  )
})

const factors = (length: 'short' | 'long', values: number[]): GgufTensorSpec => ({
  name: `rope_factors_${length}.weight`,
  dimensions: [values.length],
  data: new Uint8Array(Float32Array.from(values).buffer),
})

reading('GGUF: longrope by its tensors, with the attention scaling of the file', async () => {
  const metadata = [
    ['phi3.rope.scaling.original_context_length', 'u32', 16],
    ['phi3.rope.scaling.attn_factor', 'f32', 1.5],
    ['phi3.rope.freq_base', 'f32', 100],
  ] as const
  const both = [factors('short', [1, 2]), factors('long', [4, 8])]
  const { config } = await openPhi3([tinyQkv, tinyUp, ...both], {
    metadata: metadata.map((field) => [...field]),
  })
  assert.equal(
    [config.ropes[0]?.frequencies, config.ropes[0]?.scale, config.contextLength],
    [[1, Math.fround(0.05)], 1.5, 16],
  )
  assert.equal(config.source.rope_scaling, {
    ...{ rope_type: 'longrope', short_factor: [1, 2], long_factor: [4, 8] },
    attention_factor: 1.5,
  })
  await throwsFlrcError(() => openPhi3([tinyQkv, tinyUp, factors('short', [1, 2])]), {
    ...{ code: 'E_MODEL_FORMAT', tensor: 'rope_factors_long.weight', message: /missing/ },
  })
  await throwsFlrcError(() => openPhi3([tinyQkv, tinyUp, factors('short', [1]), factors('long', [4, 8])]), {
    ...{ code: 'E_MODEL_FORMAT', tensor: 'rope_factors_short.weight' },
  })
})

for (const one of [results, lengths, round, reading]) one.run()
