import { isObject } from './files.js'

type Json = Record<string, unknown>

/** A tokenizer.json feature that the JavaScript library would silently compute otherwise. */
export class UnportableTokenizer extends Error {}

const gpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

const isolated = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
})

/**
 * A pre-tokenizer in forms that @huggingface/tokenizers 0.2 evaluates as the Rust library does. The library
 * takes digits and white space of JavaScript's regular expressions in Digits and ByteLevel (so that `²` or
 * U+0085 split otherwise), ignores Metaspace's `split`, and isolates whatever a Split is told to do.
 */
function portablePreTokenizer(value: unknown): unknown {
  if (!isObject(value)) return value
  switch (value.type) {
    case 'Sequence':
      return {
        ...value,
        pretokenizers: Array.isArray(value.pretokenizers) ? value.pretokenizers.map(portablePreTokenizer) : [],
      }
    case 'Digits':
      return isolated(value.individual_digits ? '\\p{N}' : '\\p{N}+')
    case 'ByteLevel': {
      if (value.use_regex === false) return value
      // A prefix space must be there before the pattern splits.
      if (value.add_prefix_space === true) return value
      return { type: 'Sequence', pretokenizers: [isolated(gpt2Pattern), { ...value, use_regex: false }] }
    }
    case 'Metaspace': {
      if (value.split === false) return value
      const mark = typeof value.replacement === 'string' ? value.replacement : '\u2581'
      const escaped = mark.replace(/[\\^\]-]/g, '\\$&')
      return { type: 'Sequence', pretokenizers: [value, isolated(`${escaped}[^${escaped}]*|[^${escaped}]+`)] }
    }
    case 'Split': {
      const behavior = String(value.behavior)
      // Nothing is left out, so it is the same cut the other way round, which the library takes for Removed.
      if (behavior === 'Isolated') return { ...value, invert: false }
      if (behavior === 'Removed') return value
      throw new UnportableTokenizer(`Split with behavior ${behavior}`)
    }
    default:
      return value
  }
}

/**
 * Without a Split at what the normalizer has replaced by then, which finds nothing: Gemma's is at spaces, and would come
 * with a behavior that the library lacks.
 */
function withoutIdleSplit(json: Json): Json {
  const { pre_tokenizer: split, normalizer } = json
  if (!isObject(split) || split.type !== 'Split' || !isObject(split.pattern) || !isObject(normalizer))
    return json
  const { normalizers } = normalizer
  const last: unknown = Array.isArray(normalizers) ? normalizers.at(-1) : normalizer
  if (!isObject(last) || last.type !== 'Replace' || !isObject(last.pattern)) return json
  const replaced = last.pattern.String
  if (typeof replaced !== 'string' || replaced === '' || split.pattern.String !== replaced) return json
  return String(last.content).includes(replaced) || split.invert === true
    ? json
    : { ...json, pre_tokenizer: null }
}

/**
 * Where SentencePiece-style BPE may be cut without changing a single id. Such tokenizers have no
 * pre-tokenizer and merge over the whole text at once, which is slow for a long one. If no merge makes a
 * piece with a space mark after another character, no merge ever reaches over "x▁"; so texts on both sides
 * merge independently, and may be split there. (Not with ignore_merges, which looks whole pieces up.)
 */
function splitAtSpaces(json: Json): Json {
  const model = json.model
  if (!isObject(model) || model.type !== 'BPE' || model.ignore_merges === true) return json
  if (json.pre_tokenizer !== null && json.pre_tokenizer !== undefined) return json
  if (!Array.isArray(model.merges)) return json
  const crosses = model.merges.some((merge: unknown) => {
    const made = Array.isArray(merge) ? merge.join('') : String(merge).replace(' ', '')
    return /[^\u2581]\u2581/.test(made)
  })
  return crosses ? json : { ...json, pre_tokenizer: isolated('\u2581+[^\u2581]*|[^\u2581]+') }
}

const maxTokenId = 1 << 24

/** One more than the largest id of a vocabulary. Throws UnportableTokenizer for ids that are none. */
export function vocabularySize(ids: Iterable<unknown>): number {
  let largest = -1
  for (const id of ids) {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > maxTokenId) {
      throw new UnportableTokenizer(`token id ${JSON.stringify(id)}`)
    }
    if (id > largest) largest = id
  }
  if (largest < 0) throw new UnportableTokenizer('an empty vocabulary')
  return largest + 1
}

const modelTypes: readonly unknown[] = ['BPE', 'Unigram', 'WordPiece', 'WordLevel']

/**
 * Files written before models had a type have none; the library would take one with merges for a word list, as it does
 * models of a type that it does not know.
 */
function typedModel(model: unknown): unknown {
  if (!isObject(model)) return model
  if (model.type === undefined) return Array.isArray(model.merges) ? { ...model, type: 'BPE' } : model
  if (!modelTypes.includes(model.type)) throw new UnportableTokenizer(`model of type ${String(model.type)}`)
  return model
}

/** The library makes an object of each character of these texts; 250 k pieces, as multilingual vocabularies have, are fewer. */
const maxTrieCharacters = 2_500_000

function checkTries({ added_tokens: added, model }: Json): void {
  const texts = Array.isArray(added)
    ? added.map((token: unknown) => (isObject(token) ? token.content : undefined))
    : []
  const pieces =
    isObject(model) && model.type === 'Unigram' && Array.isArray(model.vocab)
      ? model.vocab.map((entry: unknown) => (Array.isArray(entry) ? entry[0] : undefined))
      : []
  for (const [what, list] of [
    ['added tokens', texts],
    ['pieces', pieces],
  ] as const) {
    const characters = list
      .map((text: unknown) => (typeof text === 'string' ? text.length : 0))
      .reduce((sum, length) => sum + length, 0)
    if (characters > maxTrieCharacters)
      throw new UnportableTokenizer(`${what} of ${characters} characters, more than ${maxTrieCharacters}`)
  }
}

/** tokenizer.json as @huggingface/tokenizers should be given it. Throws UnportableTokenizer. */
export function portableTokenizer(json: Json): Json {
  checkTries(json)
  const needed = withoutIdleSplit(json)
  const filled: Json = {
    normalizer: null,
    post_processor: null,
    decoder: null,
    added_tokens: [],
    ...needed,
    model: typedModel(needed.model),
    pre_tokenizer: portablePreTokenizer(needed.pre_tokenizer ?? null),
  }
  return splitAtSpaces(filled)
}
