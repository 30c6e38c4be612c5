import { join } from 'node:path'
import * as v from 'valibot'
import type { Calibration } from '../calibrate.js'
import { calibrationRecord } from '../checkpoint/replaceable.js'
import { FlrcError } from '../errors.js'
import { issueText, readJsonObject } from '../format/files.js'

/** The layout this version writes, and the newest it reads. */
export const recordVersion = 1
/** A record beyond this is none. */
const recordLimit = 1_000_000_000

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const positive = v.pipe(v.number(), v.safeInteger(), v.minValue(1))
const finite = v.pipe(v.number(), v.finite())
const share = v.pipe(v.number(), v.minValue(0), v.maxValue(1))
const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))
/** Beyond it an Int32Array would make another token of it. */
const tokenId = v.pipe(count, v.maxValue(2 ** 31 - 1))
const windows = v.array(v.pipe(v.array(tokenId), v.minLength(2)))

const sourceSchema = v.object({
  kind: v.picklist(['text', 'dialogues', 'self', 'windows']),
  name: v.exactOptional(v.string()),
  sha256,
  weight: v.exactOptional(finite),
  windows: count,
  sampling: v.exactOptional(
    v.object({ seed: count, temperature: finite, topP: finite, plainWindows: count, chatWindows: count }),
  ),
})

const sensitivitySchema = v.object({
  storage: v.picklist(['pivoted', 'plain']),
  ratios: v.array(finite),
  projections: v.array(v.object({ name: v.string(), losses: v.array(finite), seconds: finite })),
  windows: positive,
  tokens: positive,
  seconds: finite,
})

/** Everything of a calibration but its tensors; keys in the order in which `calibrate` gives them. */
const recordSchema = v.object({
  version: v.literal(recordVersion),
  model: v.object({
    id: v.exactOptional(v.string()),
    revision: v.exactOptional(v.string()),
    sha256,
    /** SHA-256 of the configuration as flrc reads it. */
    config: sha256,
    dtype: v.picklist(['f32', 'bf16', 'int8', 'int4']),
  }),
  calibration: v.object({ sha256: v.string(), sources: v.array(sourceSchema) }),
  options: v.object({
    labels: v.picklist(['model', 'data']),
    seed: count,
    whitening: v.picklist(['none', 'scaled', 'input', 'two-sided']),
    shrinkage: v.object({ inputs: share, gradients: share }),
    inputMoments: v.boolean(),
    samples: positive,
    // Not known of a calibration by an earlier version.
    samplesAsked: v.exactOptional(positive),
    seqLen: positive,
    tokens: positive,
  }),
  curves: v.boolean(),
  figures: v.object({
    lossTokens: positive,
    meanLoss: finite,
    seconds: v.object({
      ...{ forward: finite, backward: finite, moments: finite, factorize: finite, curves: finite },
      windows: finite,
    }),
    peakBytes: count,
    atOnce: v.object({ sequences: positive, projections: positive, oneInput: v.boolean() }),
  }),
  sensitivities: v.array(sensitivitySchema),
  /** SHA-256 of each file of tensors, by its name. */
  files: v.record(v.pipe(v.string(), v.regex(/^calibration(-\d{5}-of-\d{5})?\.safetensors$/)), sha256),
  windows: v.pipe(windows, v.minLength(1)),
  heldOut: windows,
})

export type CalibrationRecord = v.InferOutput<typeof recordSchema>

function malformed(file: string, problem: string): FlrcError {
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${problem}; calibrate again`, { file })
}

/**
 * The record of a stored calibration. Errors: E_NOT_FOUND, E_IO, E_VERSION for a newer layout, E_MODEL_FORMAT for one
 * that cannot be right.
 */
export async function readRecord(directory: string): Promise<CalibrationRecord> {
  const file = join(directory, calibrationRecord)
  const json = await readJsonObject(file, { limit: recordLimit, code: 'E_MODEL_FORMAT' })
  if (typeof json.version === 'number' && json.version > recordVersion) {
    throw new FlrcError(
      'E_VERSION',
      `${file}: calibration version ${json.version}, newer than the ${recordVersion} this flrc reads; upgrade with npm install flrc@latest`,
      { file },
    )
  }
  const parsed = v.safeParse(recordSchema, json)
  if (!parsed.success) throw malformed(file, issueText(parsed.issues))
  const record = parsed.output
  const { samples, seqLen, tokens } = record.options
  const lengths = record.windows.map((window) => window.length)
  const total = lengths.reduce((sum, length) => sum + length, 0)
  if (samples !== lengths.length || total !== tokens || seqLen !== lengths.reduce((a, b) => Math.max(a, b))) {
    throw malformed(file, 'the windows are not as many tokens as its options say')
  }
  if (new Set(record.heldOut.map((window) => window.length)).size > 1) {
    throw malformed(file, 'the windows held out are not of one length')
  }
  if (Object.keys(record.files).length === 0) throw malformed(file, 'names no files')
  return record
}

/** The record as JSON text, a window a line; with what only people read. */
export function recordJson(
  { windows, heldOut, ...head }: CalibrationRecord,
  more: { scores: Calibration['scores']; versions: Record<string, string> },
): string {
  const begin = JSON.stringify({ ...head, ...more }, undefined, 2).slice(0, -2)
  return `${begin},\n  "windows": ${windowsJson(windows)},\n  "heldOut": ${windowsJson(heldOut)}\n}\n`
}

function windowsJson(windows: readonly (readonly number[])[]): string {
  return `[${windows.map((window) => `\n    ${JSON.stringify(window)}`).join(',')}\n  ]`
}
