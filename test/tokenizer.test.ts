import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { openModelSource } from '#lib/model-source.js'
import { Tokenizer } from '#lib/tokenizer.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { fixture, repository, shared, smollm2Gguf } from './support/paths.js'

interface Cases {
  strings: { text: string; ids: number[] }[]
  chats: { text: string; ids: number[] }[]
}
const casesOf = (name: string): Cases => JSON.parse(readFileSync(fixture(name), 'utf8'))

async function open(path: string): Promise<Tokenizer> {
  const { tokenizer, config } = await openModelSource(path)
  return new Tokenizer(tokenizer(), { file: path, eosTokenIds: config.eosTokenIds })
}

function checkCases(tokenizer: Tokenizer, { strings, chats }: Cases): void {
  assert.ok(strings.length >= 30 && chats.length >= 3)
  for (const { text, ids } of strings) {
    assert.equal([...tokenizer.encode(text)], ids, JSON.stringify(text))
    assert.is(tokenizer.decode(ids, { skipSpecial: false }), text)
  }
  for (const { text, ids } of chats) assert.equal([...tokenizer.encode(text, { addSpecial: false })], ids)
}

/** Streams ids; the pieces must be whole characters and join to the decoded text. */
function checkStream(tokenizer: Tokenizer, ids: ArrayLike<number>): void {
  const stream = tokenizer.stream()
  const pieces = Array.from(ids, (id) => stream.push(id))
  pieces.push(stream.flush())
  assert.is(pieces.join(''), tokenizer.decode(ids))
  for (const piece of pieces) assert.not.match(piece, /[\ud800-\udbff]$|^[\udc00-\udfff]/)
}

const tinyPath = repository('models', 'tiny')

test('models/tiny: ids of the Rust library, text back, streams', async () => {
  const tokenizer = await open(tinyPath)
  const cases = casesOf('tiny-tokens.json')
  checkCases(tokenizer, cases)
  for (const { ids } of [...cases.strings, ...cases.chats]) checkStream(tokenizer, ids)
  assert.not(tokenizer.addsBos)
  assert.equal(tokenizer.eosTokenIds, [2, 0])
  assert.equal([...tokenizer.specialTokenIds].sort(), [0, 1, 2])
})

test('a stream holds back what is inside a character, and nothing else', async () => {
  const tokenizer = await open(tinyPath)
  const bytes = tokenizer.encode('a👍b')
  // This small vocabulary has no piece of an emoji longer than a byte.
  assert.is(bytes.length, 6)
  const stream = tokenizer.stream()
  assert.equal(
    Array.from(bytes, (id) => stream.push(id)),
    ['a', '', '', '', '👍', 'b'],
  )
  assert.is(stream.flush(), '')
})

test('a stream flushes half a character as U+FFFD, and goes on after bytes that are none', async () => {
  const tokenizer = await open(tinyPath)
  const emoji = tokenizer.encode('👍')
  const half = tokenizer.stream()
  assert.is(half.push(emoji[0] ?? -1), '')
  assert.is(half.flush(), '\ufffd')
  const wrong = tokenizer.stream()
  const a = tokenizer.encode('a')[0] ?? -1
  assert.is(wrong.push(emoji[1] ?? -1), '')
  assert.is(wrong.push(a), '\ufffda')
  const many = tokenizer.stream()
  let text = ''
  for (let i = 0; i < 1000; i++) text += many.push(emoji[1] ?? -1)
  assert.ok(text.length > 900, 'a run of stray bytes is not held for ever')
  assert.is(text + many.flush(), '\ufffd'.repeat(1000))
})

test('a stream completes a character that the prompt left open', async () => {
  const tokenizer = await open(tinyPath)
  const ids = tokenizer.encode('x👍')
  const stream = tokenizer.stream(ids.slice(0, 3))
  assert.is(stream.push(ids[3] ?? -1) + stream.push(ids[4] ?? -1), '👍')
})

test('special tokens are silent in a stream and in decode', async () => {
  const tokenizer = await open(tinyPath)
  const ids = tokenizer.encode('<|im_start|>hi<|im_end|>')
  assert.is(tokenizer.decode(ids), 'hi')
  assert.is(tokenizer.decode(ids, { skipSpecial: false }), '<|im_start|>hi<|im_end|>')
  checkStream(tokenizer, ids)
})

test('ids without a token have no text', async () => {
  const tokenizer = await open(tinyPath)
  assert.is(tokenizer.decode([tokenizer.vocabSize, 1e9, -1]), '')
  assert.is(tokenizer.decode([]), '')
  assert.is(tokenizer.stream().push(tokenizer.vocabSize + 5), '')
})

/** A tokenizer of the words given, split by `pre`. */
const small = (more: Record<string, unknown> = {}, config: Record<string, unknown> = {}) =>
  new Tokenizer(
    {
      tokenizer: {
        added_tokens: [{ id: 3, content: '<s>', special: true }],
        normalizer: null,
        pre_tokenizer: null,
        post_processor: null,
        decoder: null,
        model: { type: 'BPE', vocab: { a: 0, b: 1, c: 2 }, merges: [] },
        ...more,
      },
      config,
      chatTemplate: undefined,
    },
    { file: 'tokenizer.json' },
  )

test("digits and white space are Unicode's, as in the Rust library", () => {
  const split = (pre: unknown, text: string) => {
    const vocab = Object.fromEntries([...new Set(text)].map((c, i) => [c, i]))
    const all = { ...vocab }
    for (let i = 0; i < text.length; i++) {
      for (let j = i + 2; j <= text.length; j++) all[text.slice(i, j)] ??= Object.keys(all).length
    }
    const tokenizer = small({
      added_tokens: [],
      pre_tokenizer: pre,
      model: { type: 'BPE', vocab: all, merges: [], ignore_merges: true },
    })
    return Array.from(tokenizer.encode(text), (id) => tokenizer.tokenOf(id))
  }
  assert.equal(split({ type: 'Digits', individual_digits: true }, 'a1²½b'), ['a', '1', '²', '½', 'b'])
  assert.equal(split({ type: 'Digits', individual_digits: false }, 'a1²½b'), ['a', '1²½', 'b'])
  const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never', split: true }
  assert.equal(split(metaspace, 'a▁b▁▁c'), ['a', '▁b', '▁', '▁c'])
})

test('flags of a Llama tokenizer overrule its post-processor, as in transformers 4', () => {
  const single = [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }]
  const post_processor = { type: 'TemplateProcessing', single, pair: single, special_tokens: {} }
  const config = { bos_token: { content: '<s>' }, eos_token: 'c' }
  const ids = (more: object) => [...small({ post_processor }, { ...config, ...more }).encode('ab')]
  assert.equal(ids({}), [3, 0, 1])
  assert.equal(ids({ tokenizer_class: 'LlamaTokenizer', add_bos_token: false }), [0, 1])
  const both = { tokenizer_class: 'LlamaTokenizerFast', add_bos_token: true, add_eos_token: true }
  assert.equal(ids(both), [3, 0, 1, 2])
  assert.equal(ids({ tokenizer_class: 'PreTrainedTokenizerFast', add_bos_token: false }), [3, 0, 1])
})

test('a token that is to be a word of its own is found as one only, as in the Rust library', () => {
  const vocab = Object.fromEntries([...'fox .é_'].map((c, i) => [c, i]))
  const whole: [text: string, tokens: string][] = [
    ['foxo', 'f|o|x|o'],
    ['o fox', 'o| |fox'],
    ['foxfox', 'f|o|x|f|o|x'],
    ['fox.foxo', 'fox|.|f|o|x|o'],
    ['éfox fox_ fox', 'é|f|o|x| |f|o|x|_| |fox'],
    ['<s>fox<s>', '<s>|fox|<s>'],
    ['xf_foxo', 'xf_|f|o|x|o'],
    ['fox xf_', 'fox| |xf_'],
  ]
  const others = ['<s>', 'xf_'].map((content, i) => ({ id: 11 + i, content, special: true, normalized: false }))
  for (const special of [true, false]) {
    const fox = { id: 10, content: 'fox', single_word: true, special, normalized: !special }
    for (const normalizer of [null, { type: 'Lowercase' }]) {
      const added_tokens = [fox, ...others]
      const tokenizer = small({ added_tokens, normalizer, model: { type: 'BPE', vocab, merges: [] } })
      for (const [text, tokens] of whole)
        assert.is(Array.from(tokenizer.encode(text), (id) => tokenizer.tokenOf(id)).join('|'), tokens)
    }
  }
})

const endless = { type: 'Split', pattern: { Regex: '(a+)+$' }, behavior: 'Isolated', invert: false }

const bad: [what: string, run: () => unknown, message: RegExp][] = [
  ['no model', () => small({ model: undefined }), /model/],
  ['an unknown model', () => small({ model: { type: 'Magic' } }), /Magic/],
  [
    'an unknown model with words',
    () => small({ model: { type: 'Magic', vocab: { a: 0 }, merges: [] } }),
    /Magic/,
  ],
  ['an unknown pre-tokenizer', () => small({ pre_tokenizer: { type: 'Magic' } }), /Magic/],
  ['an unknown decoder', () => small({ decoder: { type: 'Magic' } }), /Magic/],
  ['no merges', () => small({ model: { type: 'BPE', vocab: { a: 0 } } }), /tokenizer cannot be used/],
  ['an enormous id', () => small({ model: { type: 'BPE', vocab: { a: 4e9 }, merges: [] } }), /4000000000/],
  ['a negative id', () => small({ model: { type: 'BPE', vocab: { a: -1 }, merges: [] } }), /-1/],
  ['an id of text', () => small({ model: { type: 'BPE', vocab: { a: 'x' }, merges: [] } }), /"x"/],
  [
    'more added tokens than there is memory for',
    () => small({ added_tokens: [{ id: 3, content: 'x'.repeat(2_600_000), special: true }] }),
    /added tokens of 2600000 characters/,
  ],
  [
    'more pieces than there is memory for',
    () => small({ model: { type: 'Unigram', unk_id: 0, vocab: [['x'.repeat(2_600_000), 0]] } }),
    /pieces of 2600000 characters/,
  ],
  ['an added token without id', () => small({ added_tokens: [{ content: 'a' }] }), /token id/],
  [
    'an ill-formed pattern',
    () => small({ pre_tokenizer: { ...endless, pattern: { Regex: '(' } } }),
    /cannot be used/,
  ],
  [
    'a Split the library would do otherwise',
    () => small({ pre_tokenizer: { ...endless, behavior: 'MergedWithNext' } }),
    /MergedWithNext/,
  ],
  [
    'pre-tokenizers nested beyond reason',
    () => {
      let pre: unknown = endless
      for (let i = 0; i < 100_000; i++) pre = { type: 'Sequence', pretokenizers: [pre] }
      return small({ pre_tokenizer: pre })
    },
    /cannot be used/,
  ],
]

for (const [what, run, message] of bad) {
  test(`refuses ${what}`, () => throwsFlrcError(run, { code: 'E_TOKENIZER', file: 'tokenizer.json', message }))
}

test('a text of more tokens than there is room for is refused before it is encoded whole', async () => {
  const tokenizer = await open(tinyPath)
  const refused = (text: string, context: number, from = tokenizer, within = 2000) =>
    throwsFlrcError(() => from.encode(text, { context }), {
      ...{ code: 'E_CONTEXT', message: new RegExp(`more than ${context} prompt tokens`), within },
    })
  await refused('Once upon a time '.repeat(60_000), 512)
  await refused('a'.repeat(1_000_000), 512)
  for (const { text, ids } of casesOf('tiny-tokens.json').strings) {
    assert.equal([...tokenizer.encode(text, { context: ids.length })], ids)
    if (ids.length > 1) await refused(text, ids.length - 1)
  }
  const vocab = { a: 0, b: 1, '?': 2 }
  const fusing = small({ model: { type: 'BPE', vocab, merges: [], unk_token: '?', fuse_unk: true } })
  assert.equal([...fusing.encode(`a${'x'.repeat(50)}b`, { context: 3 })], [0, 2, 1])
  await refused('axaxa', 2, fusing)
  assert.equal([...fusing.encode('aaaa')], [0, 0, 0, 0], 'a limit ends with its text')
})

test('words take no longer after many others', async () => {
  const tokenizer = await open(tinyPath)
  const text = 'word '.repeat(100_000)
  const seconds = () => {
    const begin = performance.now()
    tokenizer.encode(text)
    return (performance.now() - begin) / 1000
  }
  const fresh = seconds()
  const others = Array.from({ length: 20_000 }, (_, index) => String.fromCodePoint(0x4e00 + index)).join(' ')
  assert.is(tokenizer.decode(tokenizer.encode(others)), others)
  const later = seconds()
  assert.ok(later < 3 * fresh + 0.5, `${later} s after ${fresh} s`)
})

test('U+FEFF made of byte tokens is text like any other', () => {
  const bytes = { '<0xEF>': 0, '<0xBB>': 1, '<0xBF>': 2, a: 3 }
  const decoder = { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { type: 'Fuse' }] }
  const model = { type: 'BPE', vocab: bytes, merges: [], byte_fallback: true }
  const tokenizer = small({ added_tokens: [], model, decoder })
  assert.is(tokenizer.decode(tokenizer.encode('\ufeffa\ufeff')), '\ufeffa\ufeff')
})

test('what goes wrong where the source is read is E_TOKENIZER too, and under the same limits', () => {
  const read = () => {
    throw new TypeError('no vocabulary at all')
  }
  const expected = { code: 'E_TOKENIZER', file: 'x.gguf', message: /no vocabulary at all/ }
  return throwsFlrcError(() => new Tokenizer(read, { file: 'x.gguf' }), expected)
})

test('a pattern that never ends is stopped, and other texts are encoded after it', async () => {
  const tokenizer = small({ pre_tokenizer: endless })
  await throwsFlrcError(() => tokenizer.encode(`${'a'.repeat(60)}b`, { context: 2 }), {
    code: 'E_TOKENIZER',
    message: /made to hang/,
    within: 20_000,
  })
  assert.equal([...tokenizer.encode('bcb')], [1, 2, 1])
})

test('and so is one that decoding goes by', () => {
  const replace = { type: 'Replace', pattern: endless.pattern, content: '' }
  const tokenizer = small({ decoder: { type: 'Sequence', decoders: [{ type: 'Fuse' }, replace] } })
  const ids = [...Array.from({ length: 60 }, () => 0), 1]
  return throwsFlrcError(() => tokenizer.decode(ids), { code: 'E_TOKENIZER', within: 20_000 })
})

if (existsSync(smollm2Gguf)) {
  test('SmolLM2 from its GGUF file: ids of the published tokenizer, text back, streams', async () => {
    const tokenizer = await open(smollm2Gguf)
    const cases = casesOf('smollm2-tokens.json')
    checkCases(tokenizer, cases)
    for (const { ids } of [...cases.strings, ...cases.chats]) checkStream(tokenizer, ids)
    assert.equal([tokenizer.vocabSize, tokenizer.bosTokenId, tokenizer.eosTokenIds], [49152, 1, [2, 0]])
  })

  const wiki = shared('data', 'wikitext-2', 'wiki.test.raw')
  if (existsSync(wiki)) {
    test("a book-length text takes seconds, gives the Rust library's ids and comes back", async () => {
      const tokenizer = await open(smollm2Gguf)
      const text = readFileSync(wiki, 'utf8')
      const begin = performance.now()
      const ids = tokenizer.encode(text)
      const seconds = (performance.now() - begin) / 1000
      console.log(`${ids.length} tokens of ${text.length} characters in ${seconds.toFixed(1)} s`)
      assert.ok(seconds < 30)
      // Of the ids as little-endian int32, made with tokenizers 0.23.3 (scripts/pytorch has the tokenizer).
      const digest = createHash('sha256').update(new Uint8Array(ids.buffer)).digest('hex')
      assert.is(digest, 'f1fc968436f59cc521729ce7380120ad247797684b8eb530062c486b00d9bc13')
      assert.ok(tokenizer.decode(ids) === text)
    })
  } else {
    console.log('skipped: tokenising WikiText-2, missing ../shared/data/wikitext-2')
  }
} else {
  console.log('skipped: SmolLM2 tokenizer, missing ../shared/models/smollm2-135m-instruct')
}

test.run()
