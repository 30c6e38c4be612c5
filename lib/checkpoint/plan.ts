import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { basename } from 'node:path'
import type { UsedSource } from '../calibration/sources.js'
import { counted } from '../counted.js'
import { abortedError, FlrcError } from '../errors.js'
import { fileError } from '../format/files.js'
import type { StorageDtype } from '../format/types.js'
import type { RecoveryReport } from '../recover/report.js'

/**
 * `flrc-plan.json`: what a checkpoint was made from and why each rank is what it is; enough to make it again.
 * Holds nothing that differs between equal runs (no times, no paths), so that equal runs give equal bytes; only a
 * recovery, which trains for a time, differs and says how.
 */
export interface CompressionPlan {
  version: 1
  method: string
  storage: 'pivoted' | 'plain'
  dtype: StorageDtype
  /** Active budgets asked for, level 0 (keep) first. */
  budgets: number[]
  /** Every other option that decides the result: whitening, labels, seed, samples, rank floor, ... */
  options: Record<string, string | number | boolean | null | readonly (string | number)[]>
  model: {
    /** Hub id, where it came from the hub. */
    id?: string
    revision?: string
    /** `sha256OfFiles` of its weight files. */
    sha256: string
    /** Of its weight files. */
    bytes?: number
  }
  calibration: {
    /** Of one source its own, of several that of their hashes' lines. */
    sha256: string
    tokens: number
    windows: number
    sources: readonly UsedSource[]
  }
  /** Where channels of the MLPs were dropped: which share of all, and its estimated loss in nats over the text. */
  channels?: { dropped: number; loss: number }
  /** Per projection the score that `options.score` names, by which `fisher` allocates. */
  scores: Record<string, number>
  /** E(0..R) per projection, in nats over the calibration text; empty for methods without curves. */
  curves: Record<string, ArrayLike<number>>
  /** Singular values of the whitened matrix per projection; of method `energy`. */
  singular?: Record<string, ArrayLike<number>>
  /** Mean loss of so many windows with only that projection cut, at each ratio; of method `asvd`. */
  sensitivity?: { ratios: readonly number[]; windows: number; losses: Record<string, ArrayLike<number>> }
  /** Perplexity on windows that were not calibrated on, where some were held out. */
  heldOut?: HeldOutPerplexity
  /** What a recovery did to the factors, where there was one. */
  recovery?: RecoveryReport
  /** Such as flrc, node, native, blas. */
  versions: Record<string, string>
}

/** Of the dense model and of each level, on the same windows. */
export interface HeldOutPerplexity {
  windows: number
  /** Losses measured. */
  tokens: number
  /** Whether they also decided keep (`targetPerplexityIncrease`), which flatters it a little. */
  decidedKeep?: boolean
  /**
   * Bytes of all tensors as a checkpoint would store them in the type that the model is held in, and, where channels had
   * been dropped from it before, the share of the whole one's block parameters that it reads.
   */
  dense: { bytes: number; perplexity: number; budget?: number }
  levels: { perplexity: number }[]
}

/** What the figures were measured on, as a sentence of a caption. */
export function heldOutSource({
  windows,
  tokens,
  decidedKeep = false,
}: Pick<HeldOutPerplexity, 'windows' | 'tokens' | 'decidedKeep'>): string {
  const choice = decidedKeep ? '; keep was chosen on them, which flatters it a little' : ''
  return `Measured on ${counted(windows, 'window')} (${tokens} losses) of the calibration's text that were not calibrated on${choice}.`
}

/** Nine digits tell any two fp32 numbers apart. */
function rounded(value: number, name: string): number {
  if (!Number.isFinite(value)) {
    throw new FlrcError(
      'E_NUMERIC',
      `the plan has the value ${value} for ${name}; check the model's weights for NaN`,
      {
        tensor: name,
      },
    )
  }
  return Number(value.toPrecision(9))
}

/** Lists by name as JSON text, one a line, to stand `indent` deep. */
function listsJson(lists: Record<string, ArrayLike<number>>, indent: string): string {
  const lines = Object.entries(lists).map(([name, list]) => {
    const values = Array.from(list, (value) => rounded(value, name))
    return `\n${indent}  ${JSON.stringify(name)}: ${JSON.stringify(values)}`
  })
  return `{${lines.join(',')}\n${indent}}`
}

/** The plan as JSON text, one list of a projection a line. */
export function planJson(plan: CompressionPlan): string {
  const { scores, curves, singular, sensitivity, ...rest } = plan
  const scoreEntries = Object.entries(scores).map(([name, score]) => [name, rounded(score, name)])
  const head = JSON.stringify({ ...rest, scores: Object.fromEntries(scoreEntries) }, undefined, 2)
  const parts = [head.slice(0, -2), `  "curves": ${listsJson(curves, '  ')}`]
  if (singular) parts.push(`  "singular": ${listsJson(singular, '  ')}`)
  if (sensitivity) {
    const { losses, ratios, windows } = sensitivity
    const measured = `"ratios": ${JSON.stringify(ratios)},\n    "windows": ${windows}`
    parts.push(`  "sensitivity": {\n    ${measured},\n    "losses": ${listsJson(losses, '    ')}\n  }`)
  }
  return `${parts.join(',\n')}\n}\n`
}

/** SHA-256 of a text's UTF-8 bytes, in hexadecimal. */
export function sha256OfText(text: string): string {
  return createHash('sha256').update(text, 'utf8').digest('hex')
}

/** SHA-256 of a file. E_NOT_FOUND, E_IO, E_ABORTED. */
export async function sha256OfFile(file: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash('sha256')
  try {
    for await (const chunk of createReadStream(file, { signal, highWaterMark: 1 << 20 }))
      hash.update(chunk as Buffer)
  } catch (error) {
    throw signal?.aborted ? abortedError() : fileError(file, error)
  }
  return hash.digest('hex')
}

/**
 * SHA-256 of a model's weight files: of one file its own, as the hub shows it; of several that of the lines
 * `<sha256>  <file name>\n` sorted by name, as sha256sum prints them.
 *
 * @throws E_NOT_FOUND, E_IO, E_ABORTED
 */
export async function sha256OfFiles(files: readonly string[], signal?: AbortSignal): Promise<string> {
  const hashes = await Promise.all(
    files.map(async (file) => ({ name: basename(file), hash: await sha256OfFile(file, signal) })),
  )
  const [only, ...others] = hashes
  if (only !== undefined && others.length === 0) return only.hash
  const lines = hashes.sort((a, b) => (a.name < b.name ? -1 : 1)).map(({ name, hash }) => `${hash}  ${name}\n`)
  return sha256OfText(lines.join(''))
}
