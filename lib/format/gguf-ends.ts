import { type GgufFile, ggufNumber, ggufNumbers, ggufPlaces } from './gguf.js'

/** tokenizer.ggml.token_type */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const

/**
 * Texts of tokens that end a turn or a text. Files name one end, seldom two, and llama.cpp knows the others by these; it takes
 * them for control tokens, whatever the file says they are.
 */
const ends: ReadonlySet<string> = new Set([
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end_of_text|>',
  '<|im_end|>',
  '<|endoftext|>',
  '<|end|>',
  '<end_of_turn>',
  '<end_of_utterance>',
  '<eos>',
  '<EOT>',
  '<｜end▁of▁sentence｜>',
])

/** What HTML strikes through with, too. */
const textEnd = '</s>'
const all: ReadonlySet<string> = new Set([...ends, textEnd])

/** Whether a token of this text and type ends a turn or a text. */
export function isEnd(token: string, type: number | undefined): boolean {
  return ends.has(token) || (token === textEnd && type !== undefined && type !== tokenTypes.normal)
}

/** Every id that ends a turn or a text: those that the file names, then those known by their text. */
export function endTokens(gguf: GgufFile): number[] {
  const named = ['eos', 'eot', 'eom'].map((end) => ggufNumber(gguf, `tokenizer.ggml.${end}_token_id`))
  const places = ggufPlaces(gguf, 'tokenizer.ggml.tokens', all)
  // Vocabularies are large, and seldom have it.
  const types = places.some(([, text]) => text === textEnd)
    ? ggufNumbers(gguf, 'tokenizer.ggml.token_type')
    : undefined
  const known = places.flatMap(([id, text]) => (isEnd(text, types?.[id]) ? [id] : []))
  return [...new Set([...named.filter((id) => id !== undefined), ...known])]
}
