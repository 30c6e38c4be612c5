import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ggufStrings, readGguf } from '#lib/format/gguf.js'
import { tokenizerFromGguf } from '#lib/format/gguf-tokenizer.js'
import { mergesFromScores } from '#lib/format/spm-merges.js'
import { Tokenizer } from '#lib/tokenizer.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { type GgufField, ggufBytes } from './support/gguf-writer.js'
import { fixture, shared, temporaryDirectory } from './support/paths.js'

const file = join(temporaryDirectory(), 'x.gguf')

async function sourceOf(metadata: readonly GgufField[]) {
  writeFileSync(file, ggufBytes({ metadata }))
  return tokenizerFromGguf(await readGguf(file))
}
const tokenizerOf = async (metadata: readonly GgufField[]) => new Tokenizer(await sourceOf(metadata), { file })

/** Byte-level vocabulary of single bytes, as GPT-2 writes them, with some more tokens and merges. */
function byteLevel(pre: string | undefined, tokens: string[], merges: string[], more: GgufField[] = []) {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
  let next = 256
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++))
  const all = [...bytes, ...tokens, '<|begin|>', '<|end|>', '<tool>']
  const types = [...bytes, ...tokens].map(() => 1)
  const metadata: GgufField[] = [
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ...(pre === undefined ? [] : ([['tokenizer.ggml.pre', 'string', pre]] as GgufField[])),
    ['tokenizer.ggml.tokens', 'strings', all],
    ['tokenizer.ggml.token_type', 'i32s', [...types, 3, 3, 4]],
    ['tokenizer.ggml.merges', 'strings', merges],
    ['tokenizer.ggml.bos_token_id', 'u32', all.length - 3],
    ['tokenizer.ggml.eos_token_id', 'u32', all.length - 2],
    ...more,
  ]
  return { metadata, bos: all.length - 3, eos: all.length - 2, tool: all.length - 1 }
}

/** Where a pre-tokenizer cuts the text: every substring is in the vocabulary, and no merge takes part. */
async function pieces(pre: string | undefined, text: string): Promise<string[]> {
  const source = await sourceOf(byteLevel(pre, [], []).metadata)
  const own = source.tokenizer.model as { vocab: Record<string, number> }
  const vocab = { ...own.vocab }
  const bytes = Object.keys(vocab)
  const encoded = Array.from(new TextEncoder().encode(text), (byte) => bytes.find((key) => vocab[key] === byte))
  let next = Object.keys(vocab).length
  for (let begin = 0; begin < encoded.length; begin++) {
    for (let end = begin + 1; end <= encoded.length; end++) vocab[encoded.slice(begin, end).join('')] ??= next++
  }
  const tokenizer = new Tokenizer({
    ...source,
    tokenizer: { ...source.tokenizer, model: { ...own, ignore_merges: true, vocab } },
  })
  return Array.from(tokenizer.encode(text, { addSpecial: false }), (id) => tokenizer.decode([id]))
}

const sample = "I'LL pay  1234½ don't\n\n  x_y!?\r\n z\u00a0"

const expectedPieces: [pre: string | undefined, pieces: string[]][] = [
  [
    'gpt-2',
    [
      'I',
      "'",
      'LL',
      ' pay',
      ' ',
      ' 1234½',
      ' don',
      "'t",
      '\n\n ',
      ' x',
      '_',
      'y',
      '!?',
      '\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'smollm',
    [
      'I',
      "'",
      'LL',
      ' pay',
      '  ',
      '1',
      '2',
      '3',
      '4',
      '½',
      ' don',
      "'t",
      '\n\n ',
      ' x',
      '_',
      'y',
      '!?',
      '\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'llama-bpe',
    [
      'I',
      "'LL",
      ' pay',
      ' ',
      ' ',
      '123',
      '4½',
      ' don',
      "'t",
      '\n\n',
      ' ',
      ' x',
      '_y',
      '!?\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'qwen2',
    [
      'I',
      "'LL",
      ' pay',
      ' ',
      ' ',
      '1',
      '2',
      '3',
      '4',
      '½',
      ' don',
      "'t",
      '\n\n',
      ' ',
      ' x',
      '_y',
      '!?\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'tekken',
    [
      'I',
      "'LL",
      ' pay',
      ' ',
      ' ',
      '1',
      '2',
      '3',
      '4',
      '½',
      ' don',
      "'t",
      '\n\n',
      ' ',
      ' x',
      '_y',
      '!?\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'gpt-4o',
    ["I'LL", ' pay', ' ', ' ', '123', '4½', " don't", '\n\n', ' ', ' x', '_y', '!?\r\n', ' z', '\u00a0'],
  ],
  [
    undefined,
    [
      'I',
      "'",
      'LL',
      ' pay',
      ' ',
      ' ',
      '123',
      '4½',
      ' don',
      "'",
      't',
      '\n\n ',
      ' x',
      '_',
      'y',
      '!?',
      '\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'seed-coder',
    [
      'I',
      "'LL",
      ' pay',
      ' ',
      ' ',
      '1',
      '2',
      '3',
      '4',
      '½',
      ' don',
      "'t",
      '\n\n',
      ' ',
      ' x',
      '_y',
      '!?',
      '\r\n',
      ' z',
      '\u00a0',
    ],
  ],
  [
    'deepseek-coder',
    [
      'I',
      "'",
      'LL',
      ' pay',
      '  ',
      '1',
      '2',
      '3',
      '4',
      '½',
      ' don',
      "'",
      't',
      '\n',
      '\n',
      ' ',
      ' x',
      '_',
      'y',
      '!?',
      '\r',
      '\n',
      ' z',
      '\u00a0',
    ],
  ],
]

for (const [pre, expected] of expectedPieces) {
  test(`pre-tokenizer ${pre ?? 'default'} cuts where the published one does`, async () => {
    assert.is(expected.join(''), sample)
    assert.equal(await pieces(pre, sample), expected)
  })
}

test('every known name builds a tokenizer that gives text back', async () => {
  for (const pre of [
    'default',
    'mpt',
    'olmo',
    'starcoder',
    'llama3',
    'llama-v3',
    'falcon3',
    'smaug-bpe',
    'deepseek-r1-qwen',
    'trillion',
    'a.x-4.0',
    'granite-docling',
    'minerva-7b',
    'pixtral',
    'midm-2.0',
    'llama4',
    'kanana2',
    'megrez',
    'kormo',
    'minicpm5',
  ]) {
    const tokenizer = await tokenizerOf(byteLevel(pre, ['he', 'll'], ['h e', 'l l']).metadata)
    const ids = tokenizer.encode('hello 12\n', { addSpecial: false })
    assert.is(tokenizer.decode(ids), 'hello 12\n', pre)
    assert.ok(ids.length < 9, pre)
  }
})

test('special and user-defined tokens are found whole; only special ones are left out of text', async () => {
  const { metadata, bos, eos, tool } = byteLevel('gpt-2', [], [])
  const tokenizer = await tokenizerOf(metadata)
  const ids = tokenizer.encode('a<|end|><tool>b')
  assert.equal([...ids], [97, eos, tool, 98])
  assert.is(tokenizer.decode(ids), 'a<tool>b')
  assert.is(tokenizer.decode(ids, { skipSpecial: false }), 'a<|end|><tool>b')
  assert.equal([...tokenizer.specialTokenIds].sort(), [bos, eos].sort())
  assert.equal([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.addsBos], [bos, eos, false])
})

test('BOS and EOS by flag, and by the habit of the pre-tokenizer', async () => {
  const encode = async (pre: string, more: GgufField[]) => {
    const { metadata, bos, eos } = byteLevel(pre, [], [], more)
    const ids = [...(await tokenizerOf(metadata)).encode('a')]
    return ids.map((id) => (id === bos ? 'bos' : id === eos ? 'eos' : String.fromCharCode(id)))
  }
  assert.equal(await encode('gpt-2', []), ['a'])
  assert.equal(await encode('gpt-2', [['tokenizer.ggml.add_bos_token', 'bool', true]]), ['bos', 'a'])
  assert.equal(await encode('gpt-2', [['tokenizer.ggml.add_eos_token', 'bool', true]]), ['a', 'eos'])
  assert.equal(await encode('llama-bpe', []), ['bos', 'a'])
  assert.equal(await encode('llama-bpe', [['tokenizer.ggml.add_bos_token', 'bool', false]]), ['a'])
})

test('qwen2 normalises as its tokenizer.json does', async () => {
  const tokenizer = await tokenizerOf(byteLevel('qwen2', [], []).metadata)
  assert.equal([...tokenizer.encode('e\u0301')], [...tokenizer.encode('\u00e9')])
})

test('the chat template comes along', async () => {
  const { metadata } = byteLevel('gpt-2', [], [], [['tokenizer.chat_template', 'string', 'hello']])
  assert.is((await sourceOf(metadata)).chatTemplate, 'hello')
})

const vocabulary = byteLevel('gpt-2', [], []).metadata
const change = (...fields: GgufField[]) => {
  const keys = new Set(fields.map(([key]) => key))
  return [...vocabulary.filter(([key]) => !keys.has(key)), ...fields]
}
const without = (name: string) => vocabulary.filter(([key]) => key !== `tokenizer.ggml.${name}`)

const bad: [what: string, metadata: GgufField[], code: string, message: RegExp][] = [
  ['no tokenizer', [], 'E_TOKENIZER', /no tokenizer/],
  ['another kind', change(['tokenizer.ggml.model', 'string', 'bert']), 'E_TOKENIZER', /bert.*gpt2 or llama/],
  ['an unknown pre-tokenizer', change(['tokenizer.ggml.pre', 'string', 'zzz']), 'E_TOKENIZER', /zzz.*qwen2/],
  ['no tokens', without('tokens'), 'E_TOKENIZER', /vocabulary/],
  ['no merges', without('merges'), 'E_TOKENIZER', /merges/],
  ['tokens that are numbers', change(['tokenizer.ggml.tokens', 'i32s', [1]]), 'E_MODEL_FORMAT', /strings/],
  ['too few types', change(['tokenizer.ggml.token_type', 'i32s', [1]]), 'E_TOKENIZER', /types/],
  ['an end outside', change(['tokenizer.ggml.eos_token_id', 'u32', 1e6]), 'E_TOKENIZER', /outside/],
  ['a fractional end', change(['tokenizer.ggml.eos_token_id', 'f32', 0.5]), 'E_TOKENIZER', /outside/],
  [
    'SentencePiece without scores',
    change(['tokenizer.ggml.model', 'string', 'llama']),
    'E_TOKENIZER',
    /scores/,
  ],
]

for (const [what, metadata, code, message] of bad) {
  test(`refuses ${what}`, () => throwsFlrcError(() => tokenizerOf(metadata), { code, file, message }))
}

test('merges of scores: best union first, then the longer left part', () => {
  const piece = (token: string, score: number, mergeable = true) => ({ token, score, mergeable })
  const merges = mergesFromScores(
    [
      piece('<s>', 0, false),
      piece('a', -9),
      piece('b', -9),
      piece('aa', -2),
      piece('ab', -1),
      piece('aab', -3),
      piece('s>', -4),
      piece('<', -9),
      piece('é👍', -5),
      piece('é', -9),
      piece('👍', -9),
    ],
    file,
  )
  assert.equal(merges, [
    ['a', 'b'],
    ['a', 'a'],
    ['aa', 'b'],
    ['a', 'ab'],
    ['é', '👍'],
  ])
})

test('SentencePiece: vocabularies made to have merges without end are read in moments, or refused', async () => {
  const runs = (character: string, longest: number) =>
    Array.from({ length: longest }, (_, i) => ({
      ...{ token: character.repeat(i + 1), score: -i, mergeable: true },
    }))
  const begin = performance.now()
  const merges = mergesFromScores(runs('a', 1024), file)
  assert.ok(performance.now() - begin < 2000)
  // Runs of spaces are the longest pieces that trained vocabularies have.
  assert.ok(merges.some(([left, right]) => left.length + right.length === 128))
  const many = Array.from({ length: 31 }, (_, i) => runs(String.fromCodePoint(0x4e00 + i), 256)).flat()
  await throwsFlrcError(() => mergesFromScores(many, file), {
    ...{ code: 'E_TOKENIZER', file, message: /more than 1000000 merges/ },
  })
})

/** llama2.c's tokenizer.bin as the metadata that llama.cpp's converter writes. */
function llama2cMetadata(path: string): GgufField[] {
  const data = readFileSync(path)
  const tokens: string[] = []
  const scores: number[] = []
  for (let at = 4; at < data.length; ) {
    scores.push(data.readFloatLE(at))
    const length = data.readInt32LE(at + 4)
    tokens.push(data.toString('utf8', at + 8, at + 8 + length).replaceAll(' ', '\u2581'))
    at += 8 + length
  }
  tokens.splice(0, 3, '<unk>', '<s>', '</s>')
  const types = tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1))
  return [
    ['tokenizer.ggml.model', 'string', 'llama'],
    ['tokenizer.ggml.tokens', 'strings', tokens],
    ['tokenizer.ggml.scores', 'f32s', scores],
    ['tokenizer.ggml.token_type', 'i32s', types],
    ['tokenizer.ggml.bos_token_id', 'u32', 1],
    ['tokenizer.ggml.eos_token_id', 'u32', 2],
    ['tokenizer.ggml.unknown_token_id', 'u32', 0],
  ]
}

const llama2c = shared('models', 'stories260K', 'tokenizer.bin')
if (existsSync(llama2c)) {
  const spm: { vocabularySize: number; strings: { text: string; ids: number[] }[] } = JSON.parse(
    readFileSync(fixture('spm-tokens.json'), 'utf8'),
  )

  test("SentencePiece: ids as llama2.c's own encoder gives them, and the text back", async () => {
    const tokenizer = await tokenizerOf(llama2cMetadata(llama2c))
    assert.is(tokenizer.vocabSize, spm.vocabularySize)
    assert.ok(spm.strings.length > 10)
    for (const { text, ids } of spm.strings) {
      assert.equal([...tokenizer.encode(text, { addSpecial: false })], ids, text)
      assert.is(tokenizer.decode(ids), text)
    }
    assert.ok(tokenizer.addsBos)
    assert.equal([...tokenizer.encode('Once')].slice(0, 1), [1])
  })

  test('SentencePiece: a continued text keeps the space of its first token', async () => {
    const tokenizer = await tokenizerOf(llama2cMetadata(llama2c))
    const [prompt, rest] = [tokenizer.encode('Once upon'), tokenizer.encode('a time', { addSpecial: false })]
    const follow = tokenizer.stream(prompt)
    assert.is([...rest].map((id) => follow.push(id)).join('') + follow.flush(), ' a time')
    const fresh = tokenizer.stream()
    assert.is([...rest].map((id) => fresh.push(id)).join('') + fresh.flush(), 'a time')
  })

  test("SentencePiece: a token's own text keeps its space, where decoding it alone does not", async () => {
    const tokenizer = await tokenizerOf(llama2cMetadata(llama2c))
    const [once = 0, upon = 0] = tokenizer.encode('Once upon', { addSpecial: false })
    assert.is(tokenizer.decode([upon]), 'upon')
    assert.is(tokenizer.textOf(upon), ' upon')
    assert.is(tokenizer.textOf(once), ' Once')
    assert.is(tokenizer.textOf(1), '<s>')
  })

  test('SentencePiece: without the space prefix nothing is added or taken away', async () => {
    const metadata: GgufField[] = [
      ...llama2cMetadata(llama2c),
      ['tokenizer.ggml.add_space_prefix', 'bool', false],
      ['tokenizer.ggml.add_bos_token', 'bool', false],
    ]
    const tokenizer = await tokenizerOf(metadata)
    for (const text of ['Once', ' Once', '日本', ' ']) assert.is(tokenizer.decode(tokenizer.encode(text)), text)
    assert.not(tokenizer.addsBos)
  })

  test('SentencePiece: cutting at spaces changes no id', async () => {
    const { tokenizer: json } = await sourceOf(llama2cMetadata(llama2c))
    const cut = new Tokenizer({ tokenizer: json, config: {}, chatTemplate: undefined })
    // A pre-tokenizer that does nothing keeps the text whole.
    const nothing = { type: 'Sequence', pretokenizers: [] }
    const whole = new Tokenizer({
      tokenizer: { ...json, pre_tokenizer: nothing },
      config: {},
      chatTemplate: undefined,
    })
    for (const text of [
      '  a  b   c d\n e',
      ' ',
      'Once upon a time, there was  a   dog.\n\n He said: "wow" ',
      'naïve 👍 x',
    ]) {
      assert.equal([...cut.encode(text)], [...whole.encode(text)])
    }
  })

  test('SentencePiece: a long text takes moments', async () => {
    const tokenizer = await tokenizerOf(llama2cMetadata(llama2c))
    const text = 'Once upon a time there was a little dog. '.repeat(25_000)
    const begin = performance.now()
    const ids = tokenizer.encode(text)
    assert.ok(performance.now() - begin < 20_000)
    assert.is(tokenizer.decode(ids), text)
  })
} else {
  console.log('skipped: SentencePiece against llama2.c, missing ../shared/models/stories260K')
}

test('other SentencePiece models keep white space behind their tokens', async () => {
  const tokenizer = await tokenizerOf([
    ['general.architecture', 'string', 'llama'],
    ['tokenizer.ggml.model', 'string', 'llama'],
    ['tokenizer.ggml.tokens', 'strings', ['<unk>', '<s>', '</s>', '<|user|>', '\u2581', 'a']],
    ['tokenizer.ggml.token_type', 'i32s', [2, 3, 3, 3, 1, 1]],
    ['tokenizer.ggml.scores', 'f32s', [0, 0, 0, 0, -1, -2]],
  ])
  assert.equal(Array.from(tokenizer.encode('<|user|> a', { addSpecial: false })), [3, 4, 4, 5])
})

test('Phi-3 drops white space behind its own tokens, as its published tokenizer does', async () => {
  const gguf = await readGguf(fixture('phi3-longrope', 'model.gguf'))
  const tokenizer = new Tokenizer(tokenizerFromGguf(gguf), { file })
  const id = (token: string) => ggufStrings(gguf, 'tokenizer.ggml.tokens')?.indexOf(token) ?? -1
  const ids = Array.from(tokenizer.encode('<|user|>\n ab<|end|>\n<|assistant|>\n', { addSpecial: false }))
  const expected = ['<|user|>', '\u2581', 'a', 'b', '<|end|>', '<|assistant|>'].map(id)
  assert.equal(ids, expected)
  const begun = Array.from(tokenizer.encode('<s> a', { addSpecial: false }))
  assert.equal(begun, ['<s>', '\u2581', '\u2581', 'a'].map(id))
})

test.run()
