import { FlrcError } from '../errors.js'
import { type GgufFile, ggufFlag, ggufNumber, ggufNumbers, ggufString, ggufStrings } from './gguf.js'
import { isEnd, tokenTypes } from './gguf-ends.js'
import { mergesFromScores } from './spm-merges.js'
import type { TokenizerSource } from './types.js'

type Json = Record<string, unknown>

const isolated = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
})
const byteLevel: Json = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const gpt2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const words = (digits: string, lineEnds = '[\\r\\n]*') =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+${lineEnds}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const tekken = `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`
const withContraction = `${contractions}?`
const gpt4o = `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${withContraction}|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${withContraction}|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

interface PreTokenizer {
  splits: string[]
  normalizer?: Json
  ignoreMerges?: boolean
  /** Whether BOS is added where the file does not say. */
  addBos?: boolean
}

const gpt2Kind: PreTokenizer = { splits: [gpt2] }
const digitKind: PreTokenizer = { splits: ['\\p{N}', gpt2] }
const llama3Kind: PreTokenizer = { splits: [words('\\p{N}{1,3}')], ignoreMerges: true, addBos: true }
const gpt4oKind: PreTokenizer = { splits: [gpt4o] }
const qwen2Kind: PreTokenizer = { splits: [words('\\p{N}')], normalizer: { type: 'NFC' } }

/** By tokenizer.ggml.pre: how the published tokenizers of these names split text before merging. */
const preTokenizers = new Map<string, PreTokenizer>([
  // llama.cpp's own fallback, for files made before the field existed.
  ['default', { splits: ['[\\p{P}\\$\\+<=>\\^~\\|]+', gpt2, '\\p{N}+', '[0-9][0-9][0-9]'] }],
  ['gpt-2', gpt2Kind],
  ['mpt', gpt2Kind],
  ['olmo', gpt2Kind],
  ['trillion', gpt2Kind],
  ['a.x-4.0', gpt2Kind],
  ['granite-docling', gpt2Kind],
  ['smollm', digitKind],
  ['starcoder', digitKind],
  ['refact', digitKind],
  ['command-r', digitKind],
  ['minerva-7b', digitKind],
  ['llama3', llama3Kind],
  ['llama-v3', llama3Kind],
  ['llama-bpe', llama3Kind],
  ['falcon3', llama3Kind],
  ['pixtral', llama3Kind],
  ['midm-2.0', llama3Kind],
  ['smaug-bpe', { splits: llama3Kind.splits }],
  ['dbrx', { splits: llama3Kind.splits }],
  ['gpt-4o', gpt4oKind],
  ['llama4', gpt4oKind],
  ['kanana2', gpt4oKind],
  ['qwen2', qwen2Kind],
  ['deepseek-r1-qwen', qwen2Kind],
  ['megrez', qwen2Kind],
  ['kormo', qwen2Kind],
  ['stablelm2', { splits: qwen2Kind.splits }],
  ['deepseek-coder', { splits: ['[\\r\\n]', '\\s?\\p{L}+', '\\s?\\p{P}+', '[一-龥ࠀ-一가-퟿]+', '\\p{N}'] }],
  ['seed-coder', { splits: [words('\\p{N}', '')] }],
  ['minicpm5', { splits: ['\\p{N}{1,3}', words('\\p{N}+')], ignoreMerges: true }],
  ['tekken', { splits: [tekken], ignoreMerges: true, addBos: true }],
])

interface Vocabulary {
  tokens: string[]
  types: number[]
  scores: number[] | undefined
}

function failure(gguf: GgufFile, problem: string): FlrcError {
  return new FlrcError('E_TOKENIZER', `${gguf.file}: ${problem}`, { file: gguf.file })
}

function readVocabulary(gguf: GgufFile): Vocabulary {
  const tokens = ggufStrings(gguf, 'tokenizer.ggml.tokens')
  if (!tokens || tokens.length === 0) {
    throw failure(gguf, 'no vocabulary (tokenizer.ggml.tokens); use a file that holds its tokenizer')
  }
  const given = ggufNumbers(gguf, 'tokenizer.ggml.token_type') ?? tokens.map(() => tokenTypes.normal)
  const types = given.map((type, id) => (isEnd(tokens[id] ?? '', type) ? tokenTypes.control : type))
  const scores = ggufNumbers(gguf, 'tokenizer.ggml.scores')
  for (const [what, list] of [
    ['token types', types],
    ['scores', scores],
  ] as const) {
    if (list && list.length !== tokens.length) {
      throw failure(gguf, `${list.length} ${what} for ${tokens.length} tokens; download the file again`)
    }
  }
  return { tokens, types, scores }
}

/** Token -> id; of tokens that occur twice the first counts, as in llama.cpp's lookup by text. */
function vocabularyMap(tokens: string[]): Map<string, number> {
  const ids = new Map<string, number>()
  tokens.forEach((token, id) => {
    if (!ids.has(token)) ids.set(token, id)
  })
  return ids
}

/** `rstrip`: whether white space behind a token is dropped. */
function addedTokens({ tokens, types }: Vocabulary, rstrip: (token: string) => boolean = () => false): Json[] {
  const kinds: readonly number[] = [tokenTypes.unknown, tokenTypes.control, tokenTypes.userDefined]
  return tokens.flatMap((content, id) => {
    const type = types[id] ?? tokenTypes.normal
    if (!kinds.includes(type) || content === '') return []
    const special = type !== tokenTypes.userDefined
    const strips = { lstrip: false, rstrip: rstrip(content) }
    return [{ id, content, single_word: false, ...strips, normalized: false, special }]
  })
}

/** Phi-3's published tokenizer drops white space behind every token of its own but these; no metadata tell. */
const phi3Keeps: ReadonlySet<string> = new Set(['<unk>', '<s>', '<|endoftext|>'])

/** Ids and texts of BOS and EOS, and whether encoding adds them. */
interface Ends {
  bos: [id: number, token: string] | undefined
  eos: [id: number, token: string] | undefined
  addBos: boolean
  addEos: boolean
}

function readEnds(gguf: GgufFile, tokens: string[], defaultBos: boolean): Ends {
  const named = (key: string): [number, string] | undefined => {
    const id = ggufNumber(gguf, `tokenizer.ggml.${key}`)
    if (id === undefined) return undefined
    const token = tokens[id]
    if (token === undefined) {
      throw failure(gguf, `${key} ${id} is outside the vocabulary of ${tokens.length}; download the file again`)
    }
    return [id, token]
  }
  return {
    bos: named('bos_token_id'),
    eos: named('eos_token_id'),
    addBos: ggufFlag(gguf, 'tokenizer.ggml.add_bos_token') ?? defaultBos,
    addEos: ggufFlag(gguf, 'tokenizer.ggml.add_eos_token') ?? false,
  }
}

function postProcessor({ bos, eos, addBos, addEos }: Ends): Json | null {
  const first = addBos ? bos : undefined
  const last = addEos ? eos : undefined
  if (!first && !last) return null
  const special = (token: string, type: number): Json => ({ SpecialToken: { id: token, type_id: type } })
  const sequence = (id: string, type: number): Json[] => [
    ...(first ? [special(first[1], type)] : []),
    { Sequence: { id, type_id: type } },
    ...(last ? [special(last[1], type)] : []),
  ]
  const used = [first, last].filter((end) => end !== undefined)
  return {
    type: 'TemplateProcessing',
    single: sequence('A', 0),
    pair: [...sequence('A', 0), ...sequence('B', 1)],
    special_tokens: Object.fromEntries(
      used.map(([id, token]) => [token, { id: token, ids: [id], tokens: [token] }]),
    ),
  }
}

function tokenizerConfig(gguf: GgufFile, { bos, eos, addBos, addEos }: Ends, tokens: string[]): Json {
  const text = (key: string) => {
    const id = ggufNumber(gguf, `tokenizer.ggml.${key}`)
    return id === undefined ? null : (tokens[id] ?? null)
  }
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: bos?.[1] ?? null,
    eos_token: eos?.[1] ?? null,
    unk_token: text('unknown_token_id'),
    pad_token: text('padding_token_id'),
    add_bos_token: addBos,
    add_eos_token: addEos,
    clean_up_tokenization_spaces: false,
  }
}

function byteLevelTokenizer(gguf: GgufFile): { json: Json; config: Json } {
  const pre = ggufString(gguf, 'tokenizer.ggml.pre') ?? 'default'
  const kind = preTokenizers.get(pre)
  if (!kind) {
    throw failure(
      gguf,
      `pre-tokenizer ${JSON.stringify(pre)} is not known; known are ${[...preTokenizers.keys()].join(', ')}; use the model's Hugging Face directory instead`,
    )
  }
  const vocabulary = readVocabulary(gguf)
  const merges = ggufStrings(gguf, 'tokenizer.ggml.merges')
  if (!merges) throw failure(gguf, 'no merges (tokenizer.ggml.merges); download the file again')
  const ends = readEnds(gguf, vocabulary.tokens, kind.addBos ?? false)
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary),
    normalizer: kind.normalizer ?? null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: [...kind.splits.map(isolated), byteLevel] },
    post_processor: postProcessor(ends),
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: kind.ignoreMerges ?? false,
      vocab: Object.fromEntries(vocabularyMap(vocabulary.tokens)),
      merges,
    },
  }
  return { json, config: tokenizerConfig(gguf, ends, vocabulary.tokens) }
}

function sentencePieceTokenizer(gguf: GgufFile): { json: Json; config: Json } {
  const vocabulary = readVocabulary(gguf)
  const { tokens, types, scores } = vocabulary
  if (!scores) throw failure(gguf, 'no scores (tokenizer.ggml.scores); download the file again')
  const ends = readEnds(gguf, tokens, true)
  const isPhi3 = ggufString(gguf, 'general.architecture') === 'phi3'
  const prefix = ggufFlag(gguf, 'tokenizer.ggml.add_space_prefix') ?? true
  const ids = vocabularyMap(tokens)
  const unknown =
    tokens[ggufNumber(gguf, 'tokenizer.ggml.unknown_token_id') ?? types.indexOf(tokenTypes.unknown)]
  const space = '\u2581'
  const strip = { type: 'Strip', content: ' ', start: 1, stop: 0 }
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary, (token) => isPhi3 && !phi3Keeps.has(token)),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        ...(prefix ? [{ type: 'Prepend', prepend: space }] : []),
        { type: 'Replace', pattern: { String: ' ' }, content: space },
      ],
    },
    pre_tokenizer: null,
    post_processor: postProcessor(ends),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: space }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...(prefix ? [strip] : []),
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unknown ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: types.includes(tokenTypes.byte),
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges: mergesFromScores(
        tokens.map((token, id) => ({
          token,
          score: scores[id] ?? 0,
          mergeable: types[id] === tokenTypes.normal && ids.get(token) === id,
        })),
        gguf.file,
      ),
    },
  }
  return { json, config: tokenizerConfig(gguf, ends, tokens) }
}

/**
 * tokenizer.json and tokenizer_config.json of a GGUF file: byte-level BPE (`gpt2`) and SentencePiece BPE
 * (`llama`). Throws E_TOKENIZER for other kinds, unknown pre-tokenizers and vocabularies that do not fit.
 */
export function tokenizerFromGguf(gguf: GgufFile): TokenizerSource {
  const model = ggufString(gguf, 'tokenizer.ggml.model')
  if (model !== 'gpt2' && model !== 'llama') {
    const what =
      model === undefined ? 'no tokenizer' : `tokenizer kind ${JSON.stringify(model)} is not supported`
    throw failure(gguf, `${what}; use a file whose tokenizer.ggml.model is gpt2 or llama`)
  }
  const { json, config } = model === 'gpt2' ? byteLevelTokenizer(gguf) : sentencePieceTokenizer(gguf)
  return { tokenizer: json, config, chatTemplate: ggufString(gguf, 'tokenizer.chat_template') }
}
