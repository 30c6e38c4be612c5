import type { AllocationMethod, StorageDtype, Whitening } from 'flrc'
import { usageError } from './arguments.js'

/** Of a mean, with 95%. */
export type Interval = [low: number, high: number]

/** What a calibration's windows are taken from. */
export type CalibrationSource =
  | 'text'
  | 'text without <unk>'
  | 'half dialogues'
  | 'dialogues'
  | 'self'
  | 'self and text'
  | 'dialogues, text and self'

export interface CalibrationSpec {
  source: CalibrationSource
  whitening: Whitening
  labels: 'model' | 'data'
  /** Whether moments are shrunk towards their diagonals, as the package does by default; earlier methods' are not. */
  shrunk?: boolean
}

export interface LowRankSpec {
  kind: 'low-rank'
  calibration: CalibrationSpec
  method: AllocationMethod
  storage: 'plain' | 'pivoted'
  dtype: StorageDtype
  keep: number
  /** Falling budgets, `keep` first; absent for one level. */
  levels?: readonly number[]
  /** Whether channels of the MLPs are dropped first, as many as the package does by keep. */
  drops?: boolean
}

/** How the model of a row is made; equal ones are one row, whichever tables show it. */
export type ModelSpec =
  | { kind: 'dense'; dtype: StorageDtype }
  /** The weights as loaded, with the bytes that their file needs for them. */
  | { kind: 'source' }
  /** Embedding and head on the int8 grid, block weights on a grid of `blockBits`, or as they are. */
  | { kind: 'rounded'; blockBits?: 2 | 3 }
  /** No model: a dialogue's first words, or one sentence for all, as its summary. */
  | { kind: 'trivial'; summary: 'first words' | 'constant' }
  | LowRankSpec

/** What a row is measured on. */
export type Measure = 'perplexity' | 'choice' | 'summaries' | 'full' | 'transfer'

export interface RowSpec {
  model: ModelSpec
  measures: readonly Measure[]
}

export interface LevelRow {
  /** Block parameters read per token / dense block parameters. */
  budget: number
  perplexity: number
}

/** Means over the samples; intervals are of 95%. */
export interface SummaryScores {
  rouge1: number
  rouge2: number
  rougeL: number
  samples: number
  /** Of rougeL. */
  interval: Interval
  /** Against what the dense model wrote; absent where no model was asked. */
  dense?: { rougeL: number; interval: Interval }
}

export interface Row {
  key: string
  model: ModelSpec
  /** Stored block parameters / dense block parameters, as it came out. */
  keep: number
  /** Bytes of all tensors as a checkpoint stores them. */
  storedBytes: number
  /** The same with embedding and head counted as int8, whatever they are held in. */
  equalBytes: number
  /** Given the calibration: allocating and cutting, and the search that `asvd` needs first. */
  seconds?: { calibrate: number; search?: number; cut: number }
  /** Of level 0, with `levels` for every level where there are several. */
  perplexity?: number
  levels?: LevelRow[]
  choice?: {
    accuracy: number
    accuracyNormalised: number
    samples: number
    intervals: { accuracy: Interval; accuracyNormalised: Interval }
  }
  summaries?: SummaryScores
  /** Perplexity over the whole text, windows of 2048. */
  full?: number
  /** Perplexity of dialogues. */
  transfer?: number
}

/** Two calibrations of equal key are one. */
export function calibrationKey({ source, whitening, labels, shrunk }: CalibrationSpec): string {
  return `${source}/${whitening}/${labels}${shrunk ? '/shrunk' : ''}`
}

export function rowKey(model: ModelSpec): string {
  switch (model.kind) {
    case 'dense':
      return `dense/${model.dtype}`
    case 'source':
      return 'source'
    case 'rounded':
      return `rounded/${model.blockBits ?? 'embedding'}`
    case 'trivial':
      return `trivial/${model.summary}`
    case 'low-rank': {
      const { calibration, method, storage, dtype, keep, levels = [keep], drops } = model
      const key = `${calibrationKey(calibration)}/${method}/${storage}/${dtype}/${levels.join(',')}`
      return drops ? `${key}/dropped` : key
    }
  }
}

/** Each model once, with the measures of all its occurrences, in the order of the first ones. */
export function mergeSpecs(specs: readonly RowSpec[]): RowSpec[] {
  const merged = new Map<string, RowSpec>()
  for (const spec of specs) {
    const key = rowKey(spec.model)
    const measures = new Set([...(merged.get(key)?.measures ?? []), ...spec.measures])
    merged.set(key, { model: spec.model, measures: [...measures] })
  }
  return [...merged.values()]
}

/** The specs whose keys hold one of the texts; all where there are none. E_USAGE for a text that no key holds. */
export function chosenSpecs(specs: readonly RowSpec[], texts: readonly string[]): RowSpec[] {
  const holds = (text: string) => (spec: RowSpec) => rowKey(spec.model).includes(text)
  for (const text of texts) {
    if (!specs.some(holds(text))) throw usageError(`--row ${text}: no row of these tables is called so`)
  }
  return specs.filter((spec) => texts.length === 0 || texts.some((text) => holds(text)(spec)))
}

/** The measures of a spec that a stored row lacks. */
export function missingMeasures(spec: RowSpec, row: Row | undefined): Measure[] {
  return spec.measures.filter((measure) => row?.[measure] === undefined)
}

/**
 * The points that no other point beats: none has at most its bytes and at most its perplexity and is better
 * in one of them.
 */
export function paretoFront<T extends Pick<Row, 'equalBytes' | 'perplexity'>>(points: readonly T[]): Set<T> {
  const loss = ({ perplexity = Number.POSITIVE_INFINITY }: T) => perplexity
  const beats = (a: T, b: T) =>
    a.equalBytes <= b.equalBytes && loss(a) <= loss(b) && (a.equalBytes < b.equalBytes || loss(a) < loss(b))
  return new Set(points.filter((point) => !points.some((other) => beats(other, point))))
}
