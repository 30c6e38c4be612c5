import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText, readJsonObject } from '../format/files.js'

/** One model that was measured. */
export interface MeasuredModel {
  /** Models of one name are one line of a figure. */
  series: string
  /** What tells it from the others of its series. */
  label: string
  /** Only in tables: a variant that would crowd the figure. */
  aside?: boolean
  /** Stored block parameters / dense ones; 1 for a dense model. */
  keep: number
  /** Of all tensors; undefined for what is no model. */
  bytes?: number
  perplexity?: number
  /** Of its summaries, at its mean active budget. */
  rougeL?: { mean: number; interval?: [number, number]; meanActiveBudget?: number }
}

export interface QualityRows {
  /** How and on what the rows were measured. */
  caption: string
  /** SHA-256 of the weights of the model that was compressed. */
  modelSha256?: string
  models: readonly MeasuredModel[]
}

const interval = v.tuple([v.number(), v.number()])

const modelSchema = v.variant('kind', [
  v.object({ kind: v.literal('dense'), dtype: v.string() }),
  v.object({ kind: v.literal('source') }),
  v.object({ kind: v.literal('rounded'), blockBits: v.optional(v.number()) }),
  v.object({ kind: v.literal('trivial'), summary: v.string() }),
  v.object({
    kind: v.literal('low-rank'),
    calibration: v.object({ source: v.string(), whitening: v.string(), labels: v.string() }),
    method: v.string(),
    storage: v.string(),
    dtype: v.string(),
    keep: v.number(),
    levels: v.optional(v.array(v.number())),
  }),
])

type MeasuredSpec = v.InferOutput<typeof modelSchema>

const rowSchema = v.object({
  model: modelSchema,
  keep: v.number(),
  /** Of the tables of methods; the others have no sizes to compare. */
  equalBytes: v.optional(v.number()),
  perplexity: v.optional(v.number()),
  summaries: v.optional(v.object({ rougeL: v.number(), interval: v.optional(interval) })),
  /** Of the tables of progressive decoding. */
  name: v.optional(v.string()),
  schedule: v.optional(v.string()),
  quality: v.optional(v.object({ meanActiveBudget: v.number() })),
})

const fileSchema = v.object({
  version: v.literal(1),
  settings: v.record(v.string(), v.union([v.string(), v.number()])),
  rows: v.array(rowSchema),
})

const limit = 100_000_000

/**
 * The rows that `npm run bench:quality` or `bench:progressive` wrote with `--json FILE`, of one file after another.
 * E_NOT_FOUND, E_IO, E_USAGE for another file, or files of different models.
 */
export async function readQuality(files: readonly string[]): Promise<QualityRows> {
  const read = await Promise.all(files.map(readRows))
  const hashes = new Set(read.flatMap(({ modelSha256 }) => modelSha256 ?? []))
  if (hashes.size > 1) {
    throw new FlrcError('E_USAGE', `${files.join(', ')} are of different models; give rows of one model`)
  }
  const [modelSha256] = hashes
  return {
    caption: read.map(({ caption }) => caption).join(' '),
    models: read.flatMap(({ models }) => models),
    ...(modelSha256 === undefined ? {} : { modelSha256 }),
  }
}

async function readRows(file: string): Promise<QualityRows> {
  const parsed = v.safeParse(fileSchema, await readJsonObject(file, { limit, code: 'E_USAGE' }))
  if (!parsed.success) {
    throw new FlrcError(
      'E_USAGE',
      `${file}: ${issueText(parsed.issues)}; give a file that npm run bench:quality -- --json FILE wrote`,
      { file },
    )
  }
  const { settings, rows } = parsed.output
  const { modelSha256 } = settings
  const rounded = new Set(rows.flatMap(({ model }) => wholeDtype(model) ?? []))
  return {
    caption: captionOf(settings),
    models: rows.map((row) => measured(row, rounded)),
    ...(typeof modelSha256 === 'string' ? { modelSha256 } : {}),
  }
}

function captionOf(settings: Record<string, string | number>): string {
  const { model, weights, calibration, samples, seqLen, text, windows } = settings
  const on = text === undefined ? '' : `, perplexity of ${windows} windows of ${seqLen} tokens of ${text}`
  return (
    `${model} (weights in ${weights}); calibrated on ${samples} windows of ${seqLen} tokens of ${calibration}${on}. ` +
    'Embeddings and output head count as int8 in every row.'
  )
}

/** Of a model that keeps everything, so that nothing is cut: a dense one, rounded as `compress` does it. */
function wholeDtype(model: MeasuredSpec): string | undefined {
  return model.kind === 'low-rank' && model.keep === 1 ? model.dtype : undefined
}

/** @param rounded dtypes that a dense model was also rounded to against the calibration's moments */
function measured(row: v.InferOutput<typeof rowSchema>, rounded: ReadonlySet<string>): MeasuredModel {
  const { model, keep, equalBytes, perplexity, summaries, name, schedule, quality } = row
  const trivial = model.kind === 'trivial'
  const budget = trivial ? {} : { meanActiveBudget: quality?.meanActiveBudget ?? keep }
  return {
    ...(name === undefined || trivial ? named(model, rounded) : { series: name, label: schedule ?? '' }),
    keep,
    ...(trivial || equalBytes === undefined ? {} : { bytes: equalBytes }),
    ...(perplexity === undefined ? {} : { perplexity }),
    ...(summaries ? { rougeL: { mean: summaries.rougeL, interval: summaries.interval, ...budget } } : {}),
  }
}

function named(
  model: MeasuredSpec,
  rounded: ReadonlySet<string>,
): Pick<MeasuredModel, 'series' | 'label' | 'aside'> {
  switch (model.kind) {
    case 'dense':
      if (rounded.has(model.dtype)) {
        return { series: 'dense', label: `${model.dtype}, to the nearest`, aside: true }
      }
      // f32 is twice as large and no better, so all else would huddle in a corner.
      return { series: 'dense', label: model.dtype, aside: model.dtype === 'f32' }
    case 'source':
      return { series: 'dense', label: 'source file' }
    case 'rounded':
      return model.blockBits === undefined
        ? { series: 'dense', label: 'only embeddings int8', aside: true }
        : { series: 'dense', label: `${model.blockBits} bits` }
    case 'trivial':
      return {
        series: 'no model',
        label: model.summary === 'constant' ? 'one sentence for all' : 'first 20 words',
      }
    case 'low-rank': {
      const { calibration, method, storage, dtype, keep, levels } = model
      if (wholeDtype(model) !== undefined) return { series: 'dense', label: dtype }
      const { source, whitening, labels } = calibration
      const factors = dtype === 'int8' || dtype === 'int4' ? `, ${dtype} factors` : ''
      const usual = storage === 'pivoted' && levels === undefined && source === 'text'
      const steps = levels ? `, levels ${levels.join(' ')}` : ''
      return {
        series: `${method}${factors}`,
        label: `keep ${keep}, ${whitening}, labels ${labels}, ${storage}, on ${source}${steps}`,
        aside: !usual,
      }
    }
  }
}
