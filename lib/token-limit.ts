class TokenLimitError extends Error {}

/** What is used of the model in @huggingface/tokenizers' tokenizer. */
export interface LibraryModel {
  config: { type?: unknown }
  /** Tokens of the parts that a text was split into, each encoded on its own. */
  encode(parts: readonly string[]): string[]
  tokens_to_ids: Map<string, number>
  unk_token_id?: number
  fuse_unk: boolean
}

/** Parts of a text that are encoded between two looks at the limit. */
const batch = 256

/** Ends the encoding of texts that have more tokens than are wanted. */
export class TokenLimit {
  /** Set before each text: a time limit that ends one runs no code behind it. */
  #left = Number.POSITIVE_INFINITY

  /** Goes between `model` and its tokenizer. */
  constructor(model: LibraryModel) {
    const { encode } = model
    model.encode = (parts) => {
      if (this.#left === Number.POSITIVE_INFINITY) return encode.call(model, parts)
      if (fewestTokens(model, parts, this.#left) > this.#left) throw new TokenLimitError()
      const encoded: string[][] = []
      for (let first = 0; first < parts.length; first += batch) {
        const tokens = encode.call(model, parts.slice(first, first + batch))
        this.#left -= countable(model, tokens)
        if (this.#left < 0) throw new TokenLimitError()
        encoded.push(tokens)
      }
      return encoded.flat()
    }
  }

  /**
   * What `encode` gives, which encodes a text; undefined as soon as the model has made more than `most` tokens of it, or
   * must. The text is normalised and split as a whole before.
   */
  within<T>(most: number, encode: () => T): T | undefined {
    this.#left = most
    try {
      return encode()
    } catch (error) {
      if (error instanceof TokenLimitError) return undefined
      throw error
    }
  }
}

/** Unknown ones may become one with their neighbours. */
function countable({ fuse_unk, tokens_to_ids, unk_token_id }: LibraryModel, tokens: readonly string[]): number {
  if (!fuse_unk) return tokens.length
  return tokens.filter((token) => (tokens_to_ids.get(token) ?? unk_token_id) !== unk_token_id).length
}

const longest = new WeakMap<LibraryModel, number>()

/**
 * Tokens that the characters of the vocabulary take at least, none where there are fewer than `enough` for certain: what
 * keeps one endless word from being merged before it is found too long. 0 for models that leave long words out.
 */
function fewestTokens(model: LibraryModel, parts: readonly string[], enough: number): number {
  if (model.config.type !== 'BPE') return 0
  const { tokens_to_ids: ids } = model
  let most = longest.get(model)
  if (most === undefined) {
    most = 1
    for (const token of ids.keys()) most = Math.max(most, token.length)
    longest.set(model, most)
  }
  if (parts.reduce((sum, part) => sum + part.length, 0) <= enough * most) return 0
  let characters = 0
  for (const part of parts) for (const character of part) if (ids.has(character)) characters += character.length
  return Math.ceil(characters / most)
}
