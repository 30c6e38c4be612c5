/** What is used of @huggingface/tokenizers' tokenizer. */
interface Splitting {
  /** By their texts, as they are and normalised. */
  added_tokens_map: ReadonlyMap<string, { single_word: boolean }>
  splitter_unnormalized: Splitter
  splitter_normalized: Splitter
}
interface Splitter {
  /** A text's added tokens, and what is between them. */
  split(text: string): string[]
}

// Letters of a word as in the Rust library's regular expressions.
const letter = String.raw`[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]`
const startsWithLetter = new RegExp(`^${letter}`, 'u')
const endsWithLetter = new RegExp(`${letter}$`, 'u')

/**
 * Leaves tokens that are to be words of their own (`single_word`) in words that hold them, where the library would find them. One
 * that is all there is between two other added tokens is still found.
 */
export function wholeWords(library: object): void {
  const { added_tokens_map: tokens, ...splitters } = library as Splitting
  if (![...tokens.values()].some(({ single_word }) => single_word)) return
  for (const splitter of [splitters.splitter_unnormalized, splitters.splitter_normalized]) {
    const { split } = splitter
    splitter.split = (text) => {
      const sections = split.call(splitter, text)
      const kept: string[] = []
      let behindText = false
      for (const [i, section] of sections.entries()) {
        const token = tokens.get(section)
        const inWord =
          endsWithLetter.test(sections[i - 1] ?? '') || startsWithLetter.test(sections[i + 1] ?? '')
        const isText = !token || (token.single_word && inWord)
        if (isText && behindText) kept.push((kept.pop() ?? '') + section)
        else kept.push(section)
        behindText = isText
      }
      return kept
    }
  }
}
