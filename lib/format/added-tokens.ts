import { isObject } from './files.js'

type Json = Record<string, unknown>

/** Where transformers keeps tokens of tokenizers that have no `added_tokens_decoder` in tokenizer_config.json. */
export interface OlderTokenFiles {
  /** Contents of special_tokens_map.json. */
  special?: Json | undefined
  /** Contents of added_tokens.json: ids by text. */
  added?: Json | undefined
}

/** A token's text in a tokenizer's files: a string, or an AddedToken object. */
export function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return isObject(value) && typeof value.content === 'string' ? value.content : undefined
}

/** tokenizer_config.json with the begin and end tokens that only special_tokens_map.json names. */
export function withSpecialTokens(config: Json, { special = {} }: OlderTokenFiles): Json {
  if (config.added_tokens_decoder !== undefined) return config
  const named = ['bos_token', 'eos_token'].map((key) => [key, config[key] ?? tokenText(special[key])] as const)
  return { ...config, ...Object.fromEntries(named.filter(([, token]) => token !== undefined)) }
}

/** Texts that the tokenizer's configuration names as tokens with a part to play. */
function specialTexts(config: Json): Set<string | undefined> {
  const named = Object.entries(config).filter(([key]) => key.endsWith('_token'))
  const lists = [config.additional_special_tokens, config.extra_special_tokens].filter(Array.isArray)
  return new Set([...named.map(([, token]) => token), ...lists.flat()].map(tokenText))
}

/** What the configuration or added_tokens.json, in its stead, adds to a vocabulary, in the form of tokenizer.json. */
function tokensBeside(config: Json, { special: map = {}, added = {} }: OlderTokenFiles): Json[] {
  const { added_tokens_decoder: decoder } = config
  if (isObject(decoder)) {
    return Object.entries(decoder).flatMap(([id, token]) =>
      isObject(token) ? [{ ...token, id: Number(id) }] : [],
    )
  }
  const special = specialTexts({ ...config, ...map })
  return Object.entries(added).map(([content, id]) => {
    const isSpecial = special.has(content)
    const alone = { single_word: false, lstrip: false, rstrip: false }
    return { id, content, ...alone, normalized: !isSpecial, special: isSpecial }
  })
}

function* vocabularyOf(model: unknown): Iterable<[text: unknown, id: unknown]> {
  if (!isObject(model)) return
  if (isObject(model.vocab)) yield* Object.entries(model.vocab)
  else if (Array.isArray(model.vocab)) {
    for (const [id, piece] of model.vocab.entries()) yield [Array.isArray(piece) ? piece[0] : undefined, id]
  }
}

/**
 * tokenizer.json with the tokens that only tokenizer_config.json or added_tokens.json adds, as transformers finds them in texts.
 * One that the vocabulary has keeps its id there; one whose id is another's is left out.
 */
export function withAddedTokens(tokenizer: Json, config: Json, files: OlderTokenFiles): Json {
  const there = Array.isArray(tokenizer.added_tokens) ? tokenizer.added_tokens.filter(isObject) : []
  const known = new Set(there.map(tokenText))
  const beside = tokensBeside(config, files).filter((token) => {
    const text = tokenText(token)
    return text !== undefined && text !== '' && !known.has(text)
  })
  if (beside.length === 0) return tokenizer
  const vocabulary = new Map(vocabularyOf(tokenizer.model))
  const taken = new Set([...vocabulary.values(), ...there.map(({ id }) => id)])
  const more = beside.flatMap((token) => {
    const own = vocabulary.get(token.content)
    if (own !== undefined) return [{ ...token, id: own }]
    return taken.has(token.id) ? [] : [token]
  })
  return { ...tokenizer, added_tokens: [...there, ...more] }
}
