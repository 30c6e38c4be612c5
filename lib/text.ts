import type { Tokenizer } from './tokenizer.js'

/** Characters a token has at most on average; a text where it has more is tokenised whole. */
const charactersPerToken = 6
/** Tokens whose choice the cut may have changed: the last word and the spaces before it. */
const margin = 64

/**
 * The first `count` tokens of a text, or all of them where it has fewer. Line ends are read as `\n` whatever
 * the file has, as Python and so every published perplexity reads text. Of a long text only as much as is
 * needed is tokenised: the text up to the end of a line, less the tokens beside the cut.
 */
export function firstTokens(tokenizer: Tokenizer, text: string, count: number): Int32Array {
  const unix = text.replace(/\r\n?/g, '\n')
  const wanted = (count + margin) * charactersPerToken
  const cut = Number.isFinite(wanted) ? unix.indexOf('\n', wanted) : -1
  if (cut >= 0) {
    const tokens = tokenizer.encode(unix.slice(0, cut + 1))
    if (tokens.length >= count + margin) return tokens.slice(0, count)
  }
  return tokenizer.encode(unix).slice(0, count)
}

/** Token windows one after another. */
export function concatenate(windows: readonly Int32Array[]): Int32Array {
  const tokens = new Int32Array(windows.reduce((sum, window) => sum + window.length, 0))
  let position = 0
  for (const window of windows) {
    tokens.set(window, position)
    position += window.length
  }
  return tokens
}

/** Token windows as the native side takes sequences: one after another, and the tokens in each. */
export function sequencesOf(windows: readonly Int32Array[]): { tokens: Int32Array; lengths: Int32Array } {
  return { tokens: concatenate(windows), lengths: Int32Array.from(windows, (window) => window.length) }
}
