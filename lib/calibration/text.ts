import { counted } from '../counted.js'
import { FlrcError } from '../errors.js'
import { firstTokens } from '../text.js'
import type { Tokenizer } from '../tokenizer.js'

/** What is wanted of a source. */
export interface WindowsWanted {
  /** Windows to calibrate on, and to hold out. */
  share: number
  spare: number
  /** Holds windows out even where fewer are then left to calibrate on. */
  mustHoldOut: boolean
  /** Tokens in a window. */
  seqLen: number
  /** Names the source in errors. */
  name: string
}

export interface DividedWindows {
  windows: Int32Array[]
  heldOut: Int32Array[]
}

/** What of a text is there to be held out, whether any of it is: its end, so that no window depends on that. */
const heldOutShare = 1 / 9

/**
 * Windows spread evenly over a text but for its end, and windows to hold out over that. A text too short for it gives its
 * consecutive windows, from the first on. E_CALIBRATION for one shorter than a window.
 */
export function textWindows(tokenizer: Tokenizer, text: string, wanted: WindowsWanted): DividedWindows {
  const { share, spare, seqLen } = wanted
  const end = lineAfter(text, Math.floor(text.length * (1 - heldOutShare)))
  // A source without a window is an error even where it has no share of so few samples.
  const most = Math.max(1, share)
  const windows = spreadWindows(tokenizer, text.slice(0, end), most, seqLen)
  const heldOut = spreadWindows(tokenizer, text.slice(end), spare, seqLen)
  if (windows.length === most && (heldOut.length === spare || !wanted.mustHoldOut)) {
    return { windows: windows.slice(0, share), heldOut }
  }
  return dividedTokens(firstTokens(tokenizer, text, Number.POSITIVE_INFINITY), wanted)
}

/**
 * `count` windows spread evenly over a text, in its order: it is cut at ends of lines into as many parts, and each part's
 * first tokens are a window. A part is tokenised as a text of its own, and no further than its window. Where parts are
 * shorter than windows the text is tokenised whole, and its consecutive windows are what is spread: all of them where
 * there are no more.
 */
function spreadWindows(tokenizer: Tokenizer, text: string, count: number, seqLen: number): Int32Array[] {
  const windows: Int32Array[] = []
  for (let part = 0; part < count; part++) {
    const [start, end] = [part, part + 1].map((i) => lineAfter(text, Math.floor((i / count) * text.length)))
    const window = firstTokens(tokenizer, text.slice(start, end), seqLen)
    if (window.length < seqLen) {
      return spread(consecutive(firstTokens(tokenizer, text, Number.POSITIVE_INFINITY), seqLen), count)
    }
    windows.push(window)
  }
  return windows
}

/** Where the first line begins that does not begin before `at`; where no line ends there any more, the first word. */
function lineAfter(text: string, at: number): number {
  const after = (end: string) => text.indexOf(end, at - 1) + 1
  return at === 0 || at >= text.length ? at : after('\n') || after(' ') || at
}

function spread<T>(all: readonly T[], count: number): T[] {
  const most = Math.min(count, all.length)
  return Array.from({ length: most }, (_, i) => all[Math.floor((i * all.length) / most)] as T)
}

function consecutive(tokens: Int32Array, seqLen: number): Int32Array[] {
  const count = Math.floor(tokens.length / seqLen)
  return Array.from({ length: count }, (_, index) => tokens.slice(index * seqLen, (index + 1) * seqLen))
}

/**
 * The first consecutive windows of tokens, and those behind them to hold out. E_CALIBRATION for fewer tokens than one
 * window takes, whatever is wanted.
 */
export function dividedTokens(
  tokens: Int32Array,
  { share, spare, mustHoldOut, seqLen, name }: WindowsWanted,
): DividedWindows {
  if (tokens.length < seqLen) {
    throw new FlrcError(
      'E_CALIBRATION',
      `${name} has ${counted(tokens.length, 'token')} and a window takes ${seqLen}; give a longer text or shorter windows (--seq-len)`,
    )
  }
  const all = consecutive(tokens, seqLen)
  const left = mustHoldOut ? Math.max(1, all.length - spare) : all.length
  const windows = all.slice(0, Math.min(share, left))
  const heldOut = all.slice(Math.max(windows.length, 1), windows.length + spare)
  return { windows, heldOut }
}
