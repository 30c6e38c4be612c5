import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import { checkWhole, refuse } from '../check.js'
import { sha256OfText } from '../checkpoint/plan.js'
import { type DialogueSample, parseDialogues } from '../data/dialogues.js'
import { FlrcError } from '../errors.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import { dialogueTokens } from './dialogues.js'
import { writeSelfWindows } from './self.js'
import type { CalibrationText, DialogueSource, SelfSource, TextSource, UsedSource } from './sources.js'
import { dividedTokens, textWindows, type WindowsWanted } from './text.js'

export interface WindowOptions extends TaskOptions {
  /** The model's own text by default. */
  calibration?: readonly CalibrationText[]
  /** Windows to use at most; 64 by default. */
  samples?: number
  /** Tokens in a window; 512 by default, or the context where that is less. */
  seqLen?: number
  /** Windows beyond those to measure on, as many of them as the sources have; none by default. */
  heldOut?: number
  /** Holds windows out even where fewer are then left to calibrate on; false by default. */
  mustHoldOut?: boolean
  /** Seed of what the model writes itself; 0 by default. */
  seed?: number
  /** Bytes that writing may take; no limit by default. */
  memory?: number
}

export const usualSamples = 64

export interface CalibrationWindows {
  windows: Int32Array[]
  /** Windows of the same sources that are not among `windows`, from behind them. */
  heldOut: Int32Array[]
  /** Ready windows first, then the others in the order given, as their windows are. */
  sources: UsedSource[]
  /** Of one source its own hash, of several that of their hashes' lines. */
  sha256: string
}

type Source = TextSource | DialogueSource | SelfSource
interface Cut {
  windows: Int32Array[]
  heldOut: Int32Array[]
  used: UsedSource
}

/**
 * The token windows to calibrate on. Each source gives its weight's share of `samples`: a text windows spread over
 * all of it but its end, dialogues the first windows of documents spread likewise, one after another, both fewer where
 * they have no more and none that overlap; `self` is written. Ready windows come first and count against `samples`.
 * Errors: E_CALIBRATION where a source gives no window, E_USAGE for an unusable option or dialogue, E_CONTEXT,
 * E_CHAT_TEMPLATE, E_NUMERIC, E_ABORTED.
 */
export async function calibrationWindows(
  model: LoadedModel,
  options: WindowOptions,
): Promise<CalibrationWindows> {
  const { calibration = [{ self: true }], samples = usualSamples, signal, onProgress } = options
  const { seed = 0, memory = Number.MAX_SAFE_INTEGER, heldOut = 0, mustHoldOut = false } = options
  const seqLen = windowLength(model, options.seqLen)
  checkWhole('samples', samples, 1)
  checkWhole('seed', seed, 0)
  const given = givenSources(calibration)
  const ready = calibration.flatMap((one) => (one instanceof Int32Array ? [checkWindow(one, model)] : []))
  const weights = given.map(weightOf)
  const shares = shareOut(Math.max(0, samples - ready.length), weights)
  const spares = shareOut(heldOut, weights)
  const cuts: Cut[] = []
  // What is wrong with a text is told before the model spends minutes on writing.
  for (const written of [false, true]) {
    for (const [index, source] of given.entries()) {
      if ('self' in source !== written) continue
      const amount = { share: shares[index] ?? 0, spare: spares[index] ?? 0, mustHoldOut }
      const task = { ...amount, seqLen, seed, memory, signal, onProgress }
      cuts[index] = await cut(model, source, task)
    }
  }
  const sources = [
    ...ready.map((window, index) => ({
      kind: 'windows' as const,
      sha256: sha256OfTokens([window]),
      windows: index < samples ? 1 : 0,
    })),
    ...cuts.map(({ used }) => used),
  ]
  const hashes = sources.map(({ sha256 }) => sha256)
  const [only = '', ...others] = hashes
  const sha256 = others.length === 0 ? only : sha256OfText(hashes.map((hash) => `${hash}\n`).join(''))
  const windows = [...ready.slice(0, samples), ...cuts.flatMap((one) => one.windows)]
  return { windows, heldOut: cuts.flatMap((one) => one.heldOut), sources, sha256 }
}

/** Tokens in a window. E_USAGE, E_CONTEXT. */
export function windowLength({ config }: Pick<LoadedModel, 'config'>, asked: number | undefined): number {
  const context = config.contextLength
  const seqLen = asked ?? Math.min(512, context)
  checkWhole('seqLen', seqLen, 2)
  if (seqLen > context) {
    throw new FlrcError(
      'E_CONTEXT',
      `seqLen ${seqLen} exceeds the context of ${context}; give at most ${context}`,
    )
  }
  return seqLen
}

/** What there is to cut windows from, beside windows that are ready. E_USAGE, and E_CALIBRATION for an empty list. */
export function givenSources(calibration: readonly CalibrationText[]): Source[] {
  if (!Array.isArray(calibration))
    refuse('calibration', typeof calibration, 'a list of texts and other sources')
  if (calibration.length === 0) {
    throw new FlrcError(
      'E_CALIBRATION',
      'the list of calibration texts is empty; give a text of a few hundred kilobytes, or leave calibration out',
    )
  }
  return calibration.flatMap((one) => (one instanceof Int32Array ? [] : [asSource(one)]))
}

function asSource(given: string | Source): Source {
  const source: Source = typeof given === 'string' ? { text: given } : Object(given)
  const kinds = [
    'text' in source && typeof source.text === 'string',
    'dialogues' in source && (typeof source.dialogues === 'string' || Array.isArray(source.dialogues)),
    'self' in source && source.self === true,
  ]
  if (kinds.filter(Boolean).length !== 1) {
    throw new FlrcError(
      'E_USAGE',
      'a calibration source must have one of a text (a string), dialogues (samples, or a .jsonl text) or self (true)',
    )
  }
  return source
}

function weightOf({ weight = 1, name }: Source): number {
  if (weight > 0 && Number.isFinite(weight)) return weight
  throw new FlrcError(
    'E_USAGE',
    `${name ?? 'a calibration text'} has the weight ${weight}; give a number above 0`,
  )
}

interface CutTask extends TaskOptions, Omit<WindowsWanted, 'name'> {
  seed: number
  memory: number
}

async function cut(model: LoadedModel, source: Source, task: CutTask): Promise<Cut> {
  const { share, spare, seqLen, signal } = task
  const weight = weightOf(source)
  // No directories: the plan does not differ between equal runs.
  const named = source.name === undefined ? {} : { name: basename(source.name) }
  if ('self' in source) {
    const { windows, heldOut, sampling } = await writeSelfWindows(model, { ...task, windows: share })
    const sha256 = sha256OfTokens(windows)
    return {
      windows,
      heldOut,
      used: { kind: 'self', ...named, sha256, weight, windows: windows.length, sampling },
    }
  }
  const { name = 'text' in source ? 'the calibration text' : 'the dialogues' } = source
  const wanted = { ...task, name }
  const most = (Math.max(1, share) + spare) * seqLen
  const { windows, heldOut } =
    'text' in source
      ? textWindows(model.tokenizer, source.text, wanted)
      : dividedTokens(await dialogueTokens(model, samplesOf(source, name), most, { name, signal }), wanted)
  const sha256 = sha256OfText('text' in source ? source.text : jsonLines(source.dialogues))
  const kind = 'text' in source ? 'text' : 'dialogues'
  return { windows, heldOut, used: { kind, ...named, sha256, weight, windows: windows.length } }
}

function samplesOf({ dialogues }: DialogueSource, name: string): readonly DialogueSample[] {
  return typeof dialogues === 'string' ? parseDialogues(dialogues, name) : dialogues
}

function jsonLines(dialogues: string | readonly DialogueSample[]): string {
  if (typeof dialogues === 'string') return dialogues
  return dialogues.map((sample) => `${JSON.stringify(sample)}\n`).join('')
}

/** E_CALIBRATION, naming the file it is from, unless the model can read this window and predict from it. */
export function checkWindow(window: Int32Array, model: LoadedModel, file?: string): Int32Array {
  const { contextLength, vocabSize } = model.config
  const refuse = (problem: string) =>
    new FlrcError('E_CALIBRATION', `${file === undefined ? '' : `${file}: `}${problem}`, { file })
  if (!(window instanceof Int32Array)) throw refuse(`a token window is ${typeof window}; give an Int32Array`)
  if (window.length < 2 || window.length > contextLength) {
    throw refuse(`a token window has ${window.length} tokens; give 2 to ${contextLength}`)
  }
  if (window.some((token) => token < 0 || token >= vocabSize)) {
    throw refuse(`a token window holds ids outside 0 to ${vocabSize - 1}; tokenise it again`)
  }
  return window
}

/** Whole shares of `total` in proportion to the weights, by largest remainder; none is 0 where all can have 1. */
export function shareOut(total: number, weights: readonly number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0)
  const exact = weights.map((weight) => (total * weight) / sum)
  const shares = exact.map(Math.floor)
  const rest = (index: number) => (exact[index] ?? 0) % 1
  const byRest = weights.map((_, index) => index).sort((a, b) => rest(b) - rest(a))
  const left = total - shares.reduce((a, b) => a + b, 0)
  for (const index of byRest.slice(0, left)) shares[index] = (shares[index] ?? 0) + 1
  while (total >= weights.length && shares.includes(0)) {
    const largest = shares.indexOf(Math.max(...shares))
    shares[largest] = (shares[largest] ?? 0) - 1
    shares[shares.indexOf(0)] = 1
  }
  return shares
}

/**
 * Whether `wanted` windows of the same sources are those that `asked` ones came to: each source's share is what it gave,
 * or it gave all that it had.
 */
export function sameWindows(sources: readonly UsedSource[], asked: number, wanted: number): boolean {
  const ready = sources.filter(({ kind }) => kind === 'windows')
  const others = sources.filter(({ kind }) => kind !== 'windows')
  const usedReady = ready.reduce((sum, { windows }) => sum + windows, 0)
  if (usedReady !== Math.min(ready.length, wanted)) return false
  const weights = others.map(({ weight = 1 }) => weight)
  const [before, now] = [asked, wanted].map((total) =>
    shareOut(Math.max(0, total - ready.length), weights),
  ) as [number[], number[]]
  return others.every(({ kind, windows }, index) => {
    const share = now[index] ?? 0
    const gaveAll = kind !== 'self' && windows < (before[index] ?? 0)
    return share === windows || (gaveAll && share > windows)
  })
}

/** SHA-256 of the windows' ids as int32, little-endian, one window after another. */
function sha256OfTokens(windows: readonly Int32Array[]): string {
  const hash = createHash('sha256')
  for (const window of windows) hash.update(window)
  return hash.digest('hex')
}
