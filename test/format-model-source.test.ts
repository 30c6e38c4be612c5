import { copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readBytes } from '#lib/format/files.js'
import { projectionNames } from '#lib/format/projections.js'
import { openModelSource } from '#lib/model-source.js'
import { Tokenizer } from '#lib/tokenizer.js'
import { type ExpectedError, throwsFlrcError } from './support/flrc-error.js'
import { fixture, repository, temporaryDirectory } from './support/paths.js'
import { rawSafetensors, safetensorsBytes, type TestTensor } from './support/safetensors-writer.js'

const root = temporaryDirectory()
let made = 0

const json = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, 'utf8'))
const write = (path: string, value: unknown) => writeFileSync(path, JSON.stringify(value))

/** A fixture model with models/tiny's tokenizer, as a directory of its own. */
function modelDirectory(variant = 'llama'): string {
  const directory = join(root, String(made++))
  mkdirSync(directory)
  for (const name of ['config.json', 'model.safetensors']) {
    copyFileSync(fixture(variant, name), join(directory, name))
  }
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(repository('models', 'tiny', name), join(directory, name))
  }
  return directory
}

function editJson(path: string, edit: (value: Record<string, unknown>) => Record<string, unknown>): void {
  write(path, edit(json(path)))
}

test('opens a Hugging Face directory', async () => {
  const directory = modelDirectory()
  const source = await openModelSource(directory)
  assert.equal(
    [source.format, source.path, source.flrc, source.generation],
    ['huggingface', directory, undefined, undefined],
  )
  const q = source.tensors.get('model.layers.1.self_attn.q_proj.weight')
  assert.equal([q?.shape, q?.type, q?.byteLength, q?.interleavedHeads], [[32, 32], 'F32', 4096, undefined])
  assert.is(q?.file, join(directory, 'model.safetensors'))
  assert.match(source.tokenizer().chatTemplate ?? '', /im_start/)
  assert.is(source.fileBytes, readFileSync(join(directory, 'model.safetensors')).length)
})

test('opens the embedded model', async () => {
  const { config, tensors, generation } = await openModelSource(repository('models', 'tiny'))
  assert.is(config.architecture, 'llama')
  assert.ok(tensors.size > 0 && generation !== undefined)
  assert.ok([...tensors.values()].every(({ type }) => type === 'BF16'))
})

test('the licence is the model card’s, where it names one', async () => {
  const licenseWith = async (card: string | Buffer) => {
    const directory = modelDirectory()
    writeFileSync(join(directory, 'README.md'), card)
    return (await openModelSource(directory)).license()
  }
  assert.is(await licenseWith('---\nlanguage: en\nlicense: apache-2.0\ntags: [a]\n---\n# x'), 'apache-2.0')
  assert.is(await licenseWith('---\r\nlicense: "llama3.1"\r\n---\r\n'), 'llama3.1')
  for (const none of [
    '# x\nlicense: mit\n',
    '---\nlicense: a b\n---\n',
    '---\nlicense: [mit]\n---\n',
    '---\nx: 1\n---\nlicense: mit\n',
    Buffer.of(0xff, 0xfe),
  ]) {
    assert.is(await licenseWith(none), undefined)
  }
  assert.is(await (await openModelSource(modelDirectory())).license(), undefined)
})

test('opens the same model in shards, and from links', async () => {
  const whole = modelDirectory()
  const sharded = modelDirectory()
  rmSync(join(sharded, 'model.safetensors'))
  const { tensors } = await openModelSource(whole)
  const bytes = readFileSync(join(whole, 'model.safetensors'))
  const halves: TestTensor[][] = [[], []]
  const weight_map: Record<string, string> = {}
  ;[...tensors.values()].forEach(({ name, shape, offset, byteLength }, i) => {
    halves[i % 2]?.push({ name, shape, data: bytes.subarray(offset, offset + byteLength) })
    weight_map[name] = `part-${i % 2}.safetensors`
  })
  halves.forEach((half, i) => {
    writeFileSync(join(sharded, `part-${i}.safetensors`), safetensorsBytes(half))
  })
  write(join(sharded, 'model.safetensors.index.json'), { weight_map })
  const other = await openModelSource(sharded)
  assert.equal([...other.tensors.keys()].sort(), [...tensors.keys()].sort())
  const name = 'model.layers.0.mlp.down_proj.weight'
  const [a, b] = [tensors.get(name), other.tensors.get(name)]
  assert.ok(a && b)
  const part = readFileSync(b.file)
  assert.ok(
    bytes.subarray(a.offset, a.offset + a.byteLength).equals(part.subarray(b.offset, b.offset + b.byteLength)),
  )

  const linked = join(root, 'linked')
  mkdirSync(linked)
  for (const file of ['config.json', 'model.safetensors', 'tokenizer.json'])
    symlinkSync(join(whole, file), join(linked, file))
  assert.is((await openModelSource(linked)).tensors.size, tensors.size)
})

test('takes names without the model. prefix', async () => {
  const directory = modelDirectory()
  const { tensors } = await openModelSource(directory)
  const bytes = safetensorsBytes(
    [...tensors.values()].map(({ name, shape }) => ({ name: name.replace(/^model\./, ''), shape })),
  )
  writeFileSync(join(directory, 'model.safetensors'), bytes)
  assert.equal([...(await openModelSource(directory)).tensors.keys()].sort(), [...tensors.keys()].sort())
})

test('a head beside the embedding that it is said to be is another one where it differs, as in transformers', async () => {
  const directory = modelDirectory()
  const { tensors } = await openModelSource(directory)
  const withHead = async (change: (embedding: Buffer) => Buffer, left: string[] = [], dtype = 'F32') => {
    const stored: TestTensor[] = []
    for (const { name, file, offset, byteLength, shape } of tensors.values()) {
      const data = await readBytes(file, offset, byteLength)
      if (!left.includes(name)) stored.push({ name, shape, data })
      if (name === embedding) stored.push({ name: 'lm_head.weight', shape, dtype, data: change(data) })
    }
    const other = modelDirectory()
    writeFileSync(join(other, 'model.safetensors'), safetensorsBytes(stored))
    return other
  }
  const embedding = 'model.embed_tokens.weight'
  const asFound = async (path: string) => {
    const { config, tensors: found } = await openModelSource(path)
    const { storedName } = found.get(embedding) ?? {}
    return [config.tieEmbeddings, config.source.tie_word_embeddings, found.has('lm_head.weight'), storedName]
  }
  assert.equal(await asFound(directory), [true, true, false, undefined])
  assert.equal(await asFound(await withHead((data) => data)), [true, true, false, undefined])
  const lastByte = (data: Buffer) => Buffer.concat([data.subarray(0, -1), Buffer.of(~(data.at(-1) ?? 0))])
  const differs = await withHead(lastByte)
  assert.equal(await asFound(differs), [false, false, true, undefined])
  const half = await withHead((data) => data.subarray(data.length / 2), [], 'F16')
  assert.equal(await asFound(half), [false, false, true, undefined])
  assert.equal(await asFound(await withHead((data) => data, [embedding])), [
    true,
    true,
    false,
    'lm_head.weight',
  ])
  await throwsFlrcError(() => openModelSource(differs, AbortSignal.abort()), { code: 'E_ABORTED' })
})

test('refuses two spellings of one name', async () => {
  const directory = modelDirectory()
  const file = join(directory, 'model.safetensors')
  const { tensors } = await openModelSource(directory)
  const stored = [...tensors.values()].map(({ name, shape }) => ({ name, shape }))
  for (const name of ['model.norm.weight', 'model.layers.1.self_attn.q_proj.weight']) {
    const shape = tensors.get(name)?.shape ?? []
    const other = name.replace(/^model/, 'language_model.model')
    writeFileSync(file, safetensorsBytes([...stored, { name: other, shape }]))
    await throwsFlrcError(() => openModelSource(directory), {
      ...{ code: 'E_MODEL_FORMAT', file, tensor: other },
      message: new RegExp(`${name} and ${other} are both`),
    })
  }
})

test('generation_config.json has the last word on end tokens', async () => {
  const directory = modelDirectory()
  write(join(directory, 'generation_config.json'), { eos_token_id: [7, 8] })
  const { config, generation } = await openModelSource(directory)
  assert.equal(config.eosTokenIds, [7, 8])
  assert.equal(generation, { eos_token_id: [7, 8] })
})

test('chat templates from their own file, from a list, or not at all', async () => {
  const directory = modelDirectory()
  const template = async () => (await openModelSource(directory)).tokenizer().chatTemplate
  const config = join(directory, 'tokenizer_config.json')
  const named = [
    { name: 'tool_use', template: 'b' },
    { name: 'default', template: 'a' },
  ]
  write(config, { chat_template: named })
  assert.is(await template(), 'a')
  write(config, {})
  assert.is(await template(), undefined)
  rmSync(config)
  assert.is(await template(), undefined)
  writeFileSync(join(directory, 'chat_template.jinja'), 'own file')
  assert.is(await template(), 'own file')
})

test('begin and end tokens that only special_tokens_map.json names, as transformers reads it', async () => {
  const directory = modelDirectory()
  const config = join(directory, 'tokenizer_config.json')
  const ends = async () => {
    const { bosToken, eosToken } = new Tokenizer((await openModelSource(directory)).tokenizer)
    return [bosToken, eosToken]
  }
  write(join(directory, 'special_tokens_map.json'), {
    bos_token: '<|im_start|>',
    eos_token: { content: '<|im_end|>', lstrip: false },
  })
  write(config, {})
  assert.equal(await ends(), ['<|im_start|>', '<|im_end|>'])
  write(config, { bos_token: null, eos_token: 'a' })
  assert.equal(await ends(), ['<|im_start|>', 'a'])
  write(config, { added_tokens_decoder: {} })
  assert.equal(await ends(), [undefined, undefined])
})

test('tokens that only added_tokens_decoder or added_tokens.json adds, as in transformers', async () => {
  const directory = modelDirectory()
  const config = join(directory, 'tokenizer_config.json')
  const open = async () => new Tokenizer((await openModelSource(directory)).tokenizer)
  const { vocabSize } = await open()
  const textsOf = async (text: string) => {
    const tokenizer = await open()
    return [...tokenizer.encode(text, { addSpecial: false })].map((id) => [id, tokenizer.tokenOf(id)])
  }
  const spelt = await textsOf('<|new|>')
  assert.ok(spelt.length > 1)
  const token = { content: '<|new|>', lstrip: false, rstrip: false, normalized: false, special: true }
  write(config, { added_tokens_decoder: { [vocabSize]: token } })
  assert.equal(await textsOf('<|new|>'), [[vocabSize, '<|new|>']])
  assert.is((await open()).decode([vocabSize]), '')
  write(config, { added_tokens_decoder: { 5: token } })
  assert.equal(await textsOf('<|new|>'), spelt)
  write(config, { pad_token: '<|pad|>' })
  write(join(directory, 'added_tokens.json'), { '<|new|>': vocabSize, '<|pad|>': vocabSize + 1 })
  assert.equal(await textsOf('<|new|>'), [[vocabSize, '<|new|>']])
  assert.is((await open()).decode([vocabSize, vocabSize + 1]), '<|new|>')
  write(config, { added_tokens_decoder: {} })
  assert.equal(await textsOf('<|new|>'), spelt)
  write(config, {})
  write(join(directory, 'added_tokens.json'), { '<|new|>': 'x' })
  await throwsFlrcError(open, { code: 'E_TOKENIZER', message: /token id "x"/ })
})

test('tensors that the model does not use may be of any type', async () => {
  const directory = modelDirectory()
  const path = join(directory, 'model.safetensors')
  const bytes = readFileSync(path)
  const headerBytes = Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes))
  const data = bytes.subarray(8 + headerBytes)
  const end = data.length
  header['model.layers.0.self_attn.rotary_emb.inv_freq'] = {
    dtype: 'F64',
    shape: [1],
    data_offsets: [end, end + 8],
  }
  writeFileSync(path, rawSafetensors(header, Buffer.concat([data, Buffer.alloc(8)])))
  assert.not((await openModelSource(directory)).tensors.has('model.layers.0.self_attn.rotary_emb.inv_freq'))
})

type Break = (directory: string) => void

const edit =
  (name: string, change: (value: Record<string, unknown>) => Record<string, unknown>): Break =>
  (directory) =>
    editJson(join(directory, name), change)
const put =
  (name: string, text: string): Break =>
  (directory) =>
    writeFileSync(join(directory, name), text)
const remove =
  (name: string): Break =>
  (directory) =>
    rmSync(join(directory, name))

const bad: [what: string, broken: Break, name: string | undefined, expected: ExpectedError][] = [
  ['no config', remove('config.json'), 'config.json', { code: 'E_NOT_FOUND', message: /config\.json/ }],
  ['a config that is no JSON', put('config.json', '{'), 'config.json', { code: 'E_MODEL_FORMAT' }],
  ['a config that is a list', put('config.json', '[]'), 'config.json', { code: 'E_MODEL_FORMAT' }],
  [
    'an enormous config',
    put('config.json', ' '.repeat(17_000_000)),
    'config.json',
    { code: 'E_MODEL_FORMAT', message: /bytes, more than/ },
  ],
  [
    'an unsupported architecture',
    edit('config.json', (config) => ({ ...config, model_type: 'bert' })),
    'config.json',
    { code: 'E_UNSUPPORTED_ARCH', message: /bert/ },
  ],
  [
    'quantised weights',
    edit('config.json', (config) => ({ ...config, quantization_config: { quant_method: 'gptq' } })),
    'config.json',
    { code: 'E_UNSUPPORTED_TYPE', message: /gptq.*GGUF/ },
  ],
  ['no tokenizer', remove('tokenizer.json'), 'tokenizer.json', { code: 'E_TOKENIZER' }],
  ['a tokenizer that is no JSON', put('tokenizer.json', 'x'), 'tokenizer.json', { code: 'E_TOKENIZER' }],
  [
    'a tokenizer config that is no JSON',
    put('tokenizer_config.json', 'x'),
    'tokenizer_config.json',
    { code: 'E_TOKENIZER' },
  ],
  [
    'a generation config that is no JSON',
    put('generation_config.json', 'x'),
    'generation_config.json',
    { code: 'E_MODEL_FORMAT' },
  ],
  ['no weights', remove('model.safetensors'), undefined, { code: 'E_MODEL_FORMAT', message: /neither/ }],
  [
    'pickled weights',
    (directory) => {
      remove('model.safetensors')(directory)
      put('pytorch_model.bin', 'x')(directory)
    },
    undefined,
    { code: 'E_MODEL_FORMAT', message: /pytorch_model\.bin.*save_pretrained/ },
  ],
  ['truncated weights', put('model.safetensors', 'abc'), 'model.safetensors', { code: 'E_MODEL_FORMAT' }],
  [
    'integer weights',
    put(
      'model.safetensors',
      safetensorsBytes([{ name: 'model.layers.0.mlp.up_proj.weight', dtype: 'I8', shape: [48, 32] }]).toString(
        'latin1',
      ),
    ),
    'model.safetensors',
    { code: 'E_UNSUPPORTED_TYPE', tensor: 'model.layers.0.mlp.up_proj.weight' },
  ],
  [
    'weights that are a directory',
    (directory) => {
      remove('model.safetensors')(directory)
      mkdirSync(join(directory, 'model.safetensors'))
    },
    'model.safetensors',
    { code: 'E_MODEL_FORMAT', message: /regular/ },
  ],
]

for (const [what, broken, name, expected] of bad) {
  test(`refuses a directory with ${what}`, async () => {
    const directory = modelDirectory()
    broken(directory)
    const file = name === undefined ? directory : join(directory, name)
    await throwsFlrcError(async () => (await openModelSource(directory)).tokenizer(), { file, ...expected })
  })
}

test('says what it looked for where nothing is', async () => {
  await throwsFlrcError(() => openModelSource('/nowhere/at/all.gguf'), {
    code: 'E_NOT_FOUND',
    message: /check the path/,
  })
  await throwsFlrcError(() => openModelSource(''), { code: 'E_NOT_FOUND' })
  await throwsFlrcError(() => openModelSource(join(modelDirectory(), 'model.safetensors')), { code: 'E_USAGE' })
  await throwsFlrcError(() => openModelSource(join(modelDirectory(), 'config.json')), {
    code: 'E_MODEL_FORMAT',
    message: /magic number\); give a \.gguf file, a Hugging Face directory or an FLRC directory/,
  })
  await throwsFlrcError(() => openModelSource('/dev/null'), { code: 'E_MODEL_FORMAT', message: /regular/ })
})

type Ranks = Record<string, unknown>

/** An FLRC directory of the llama fixture whose `flrc` object is changed. */
async function flrcDirectory(
  change: (flrc: Record<string, unknown>, ranks: Ranks) => unknown = (flrc) => flrc,
) {
  const directory = modelDirectory()
  const path = join(directory, 'config.json')
  const { config } = await openModelSource(directory)
  const ranks = Object.fromEntries(projectionNames(config).map(({ name }) => [name, 'dense']))
  const flrc = {
    version: 1,
    keep: 1,
    levels: [{ budget: 1, ranks }],
    dtype: 'bf16',
    storage: 'pivoted',
    source: json(path),
  }
  write(path, { model_type: 'flrc', flrc: change(flrc, ranks) })
  return directory
}

const q0 = 'model.layers.0.self_attn.q_proj'
const levelsOf = (ranks: Ranks, ...each: [budget: number, rank: unknown][]) =>
  each.map(([budget, rank]) => ({ budget, ranks: { ...ranks, [q0]: rank } }))

test('opens an FLRC directory', async () => {
  const directory = await flrcDirectory((flrc, ranks) => ({
    ...flrc,
    keep: 0.9,
    levels: levelsOf(ranks, [0.9, 8], [0.8, 4], [0.8, 0]),
  }))
  const { format, config, flrc, tensors } = await openModelSource(directory)
  assert.equal([format, config.architecture, config.hiddenSize], ['flrc', 'llama', 32])
  assert.equal(
    flrc?.levels.map(({ budget, ranks }) => [budget, ranks[q0]]),
    [
      [0.9, 8],
      [0.8, 4],
      [0.8, 0],
    ],
  )
  assert.is(config.source.model_type, 'llama')
  assert.ok(tensors.has(`${q0}.weight`))
})

test('FLRC directories hold blocks, indices and integers', async () => {
  const directory = await flrcDirectory()
  writeFileSync(
    join(directory, 'model.safetensors'),
    safetensorsBytes([
      { name: `${q0}.P.0`, dtype: 'BF16', shape: [4, 32] },
      { name: `${q0}.C.0`, dtype: 'BF16', shape: [4, 28] },
      { name: `${q0}.I.0`, dtype: 'I32', shape: [4] },
      { name: 'model.layers.0.mlp.up_proj.q', dtype: 'U8', shape: [4, 4] },
    ]),
  )
  const { tensors } = await openModelSource(directory)
  assert.equal([...tensors.values()].map(({ type }) => type).sort(), ['BF16', 'BF16', 'I32', 'U8'])
})

const badHeaders: [
  what: string,
  change: (flrc: Record<string, unknown>, ranks: Ranks) => unknown,
  expected: ExpectedError,
][] = [
  ['no flrc object', () => undefined, { code: 'E_MODEL_FORMAT' }],
  [
    'a newer version',
    (flrc) => ({ ...flrc, version: 3, levels: 'other' }),
    { code: 'E_VERSION', message: /upgrade/ },
  ],
  ['version 0', (flrc) => ({ ...flrc, version: 0 }), { code: 'E_MODEL_FORMAT', message: /version/ }],
  ['keep 0', (flrc) => ({ ...flrc, keep: 0 }), { code: 'E_MODEL_FORMAT', message: /keep/ }],
  ['keep 2', (flrc) => ({ ...flrc, keep: 2 }), { code: 'E_MODEL_FORMAT', message: /keep/ }],
  ['no levels', (flrc) => ({ ...flrc, levels: [] }), { code: 'E_MODEL_FORMAT', message: /levels/ }],
  ['an unknown dtype', (flrc) => ({ ...flrc, dtype: 'fp8' }), { code: 'E_MODEL_FORMAT', message: /dtype/ }],
  [
    'an unknown storage',
    (flrc) => ({ ...flrc, storage: 'zip' }),
    { code: 'E_MODEL_FORMAT', message: /storage/ },
  ],
  ['no source', (flrc) => ({ ...flrc, source: undefined }), { code: 'E_MODEL_FORMAT', message: /source/ }],
  [
    'an unsupported source',
    (flrc) => ({ ...flrc, source: { model_type: 'flrc' } }),
    { code: 'E_UNSUPPORTED_ARCH' },
  ],
  [
    'a rank beyond full',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, 33]) }),
    { code: 'E_MODEL_FORMAT', tensor: q0, message: /full rank 32/ },
  ],
  [
    'a negative rank',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, -1]) }),
    { code: 'E_MODEL_FORMAT', message: /ranks/ },
  ],
  [
    'a rank of text',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, 'full']) }),
    { code: 'E_MODEL_FORMAT', message: /ranks/ },
  ],
  [
    'a missing rank',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, undefined]) }),
    { code: 'E_MODEL_FORMAT', tensor: q0, message: /no rank/ },
  ],
  [
    'a rank of a stranger',
    (flrc, ranks) => ({
      ...flrc,
      levels: [{ budget: 1, ranks: { ...ranks, 'model.layers.9.mlp.up_proj': 1 } }],
    }),
    { code: 'E_MODEL_FORMAT', message: /model\.layers\.9\.mlp\.up_proj/ },
  ],
  [
    'a rank that grows',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, 4], [0.9, 5]) }),
    { code: 'E_MODEL_FORMAT', tensor: q0, message: /from 4 to 5/ },
  ],
  [
    'a dense projection that falls',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [1, 'dense'], [0.9, 5]) }),
    { code: 'E_MODEL_FORMAT', tensor: q0, message: /from dense to 5/ },
  ],
  [
    'a budget that grows',
    (flrc, ranks) => ({ ...flrc, levels: levelsOf(ranks, [0.8, 4], [0.9, 4]) }),
    { code: 'E_MODEL_FORMAT', message: /budget/ },
  ],
]

for (const [what, change, expected] of badHeaders) {
  test(`refuses a checkpoint with ${what}`, async () => {
    const directory = await flrcDirectory(change)
    await throwsFlrcError(() => openModelSource(directory), {
      file: join(directory, 'config.json'),
      ...expected,
    })
  })
}

test('the source directory is left as it was', async () => {
  const directory = modelDirectory()
  const copy = join(root, 'copy')
  cpSync(directory, copy, { recursive: true })
  await openModelSource(directory)
  for (const name of ['config.json', 'tokenizer.json', 'model.safetensors']) {
    assert.ok(readFileSync(join(directory, name)).equals(readFileSync(join(copy, name))))
  }
})

test.run()
