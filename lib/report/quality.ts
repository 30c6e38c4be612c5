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
  equalBytes: v.number(),
  perplexity: v.optional(v.number()),
  summaries: v.optional(v.object({ rougeL: v.number(), interval: v.optional(interval) })),
  meanActiveBudget: v.optional(v.number()),
})

const fileSchema = v.object({
  version: v.literal(1),
  settings: v.record(v.string(), v.union([v.string(), v.number()])),
  rows: v.array(rowSchema),
})

const limit = 100_000_000

/** The rows that `npm run bench:quality -- --json FILE` wrote. E_NOT_FOUND, E_IO, E_USAGE for another file. */
export async function readQuality(file: string): Promise<QualityRows> {
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
  return {
    caption: captionOf(settings),
    models: rows.map(measured),
    ...(typeof modelSha256 === 'string' ? { modelSha256 } : {}),
  }
}

function captionOf(settings: Record<string, string | number>): string {
  const { model, weights, calibration, samples, seqLen, text, windows } = settings
  return (
    `${model} (weights in ${weights}); calibrated on ${samples} windows of ${seqLen} tokens of ${calibration}, ` +
    `perplexity of ${windows} windows of ${seqLen} tokens of ${text}. Embeddings and output head count as int8 in every row.`
  )
}

function measured({
  model,
  keep,
  equalBytes,
  perplexity,
  summaries,
  meanActiveBudget,
}: v.InferOutput<typeof rowSchema>) {
  const known = {
    keep,
    ...(model.kind === 'trivial' ? {} : { bytes: equalBytes }),
    ...(perplexity === undefined ? {} : { perplexity }),
    ...(summaries
      ? {
          rougeL: {
            mean: summaries.rougeL,
            interval: summaries.interval,
            ...(model.kind === 'trivial' ? {} : { meanActiveBudget: meanActiveBudget ?? keep }),
          },
        }
      : {}),
  }
  return { ...named(model), ...known }
}

function named(model: MeasuredSpec): Pick<MeasuredModel, 'series' | 'label' | 'aside'> {
  switch (model.kind) {
    case 'dense':
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
