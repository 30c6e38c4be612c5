import * as v from 'valibot'
import { bootstrapMean } from '../statistics/bootstrap.js'
import { weightedMean } from '../statistics/mean.js'

/** One model that was measured. */
export interface MeasuredModel {
  /** Models of one name are one line of a figure. */
  series: string
  /** What tells it from the others of its series. */
  label: string
  /** Only in tables: a variant that would crowd the figure. */
  aside?: boolean
  /** Another calibration text than the one that methods are compared on. */
  calibratedOn?: string
  /** Stored block parameters / dense ones; 1 for a dense model. */
  keep: number
  /** Of all tensors; undefined for what is no model. */
  bytes?: number
  perplexity?: number
  summaries?: MeasuredSummaries
}

/** ROUGE-L of the summaries that a model wrote. */
export interface MeasuredSummaries {
  /** The budget it was made for, a point of its series: the keep of one that does not fall. */
  budget?: number
  /** Of the tokens written; undefined where no model wrote them. */
  meanActiveBudget?: number
  /** Against people's summaries. */
  people: RougeL
  /** Against those of the dense model. */
  dense?: RougeL
}

export interface RougeL {
  mean: number
  interval?: [number, number]
}

const interval = v.tuple([v.number(), v.number()])
const scores = v.array(v.number())

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
type LowRank = Extract<MeasuredSpec, { kind: 'low-rank' }>

export const rowSchema = v.object({
  model: modelSchema,
  keep: v.number(),
  /** Of the tables of methods; the others have no sizes to compare. */
  equalBytes: v.optional(v.number()),
  perplexity: v.optional(v.number()),
  summaries: v.optional(
    v.object({
      rougeL: v.number(),
      interval: v.optional(interval),
      dense: v.optional(v.object({ rougeL: v.number(), interval: v.optional(interval) })),
    }),
  ),
  /** Of the tables of progressive decoding: how the level falls, the model whose level comes first, and each sample. */
  budget: v.optional(v.number()),
  schedule: v.optional(v.string()),
  above: v.optional(modelSchema),
  scores: v.optional(
    v.object({
      written: v.optional(
        v.object({
          people: v.object({ rougeL: scores }),
          dense: v.object({ rougeL: scores }),
          spent: v.optional(v.object({ tokens: scores, budget: scores })),
        }),
      ),
    }),
  ),
})

export type QualityRow = v.InferOutput<typeof rowSchema>

/** The rows of one file as models. */
export function measuredModels(rows: readonly QualityRow[]): MeasuredModel[] {
  const rounded = new Set(rows.flatMap(({ model }) => wholeDtype(model) ?? []))
  return rows.map((row) => {
    const { model, keep, equalBytes, perplexity } = row
    const summaries = summariesOf(row)
    return {
      ...(model.kind === 'low-rank' && model.keep < 1 && row.schedule !== undefined
        ? progressiveName(model, row)
        : named(model, rounded)),
      keep,
      ...(model.kind === 'trivial' || equalBytes === undefined ? {} : { bytes: equalBytes }),
      ...(perplexity === undefined ? {} : { perplexity }),
      ...(summaries ? { summaries } : {}),
    }
  })
}

function summariesOf({
  model,
  keep,
  budget = keep,
  summaries,
  scores: { written } = {},
}: QualityRow): MeasuredSummaries | undefined {
  if (written) {
    const { people, dense, spent } = written
    if (people.rougeL.length === 0 || people.rougeL.length !== dense.rougeL.length) return undefined
    return {
      people: bootstrapMean(people.rougeL),
      dense: bootstrapMean(dense.rougeL),
      ...(spent && { budget, meanActiveBudget: weightedMean(spent.budget, spent.tokens) }),
    }
  }
  if (!summaries) return undefined
  const estimate = (score: { rougeL: number; interval?: [number, number] | undefined }): RougeL => ({
    mean: score.rougeL,
    ...(score.interval ? { interval: score.interval } : {}),
  })
  return {
    people: estimate(summaries),
    ...(summaries.dense ? { dense: estimate(summaries.dense) } : {}),
    ...(model.kind === 'trivial' ? {} : { budget, meanActiveBudget: keep }),
  }
}

type Name = Pick<MeasuredModel, 'series' | 'label' | 'aside' | 'calibratedOn'>

/** Of a model that keeps everything, so that nothing is cut: a dense one, rounded as `compress` does it. */
function wholeDtype(model: MeasuredSpec): string | undefined {
  return model.kind === 'low-rank' && model.keep === 1 ? model.dtype : undefined
}

/** @param rounded dtypes that a dense model was also rounded to against the calibration's moments */
function named(model: MeasuredSpec, rounded: ReadonlySet<string>): Name {
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
        : { series: 'dense', label: `int${model.blockBits}` }
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
      const steps = levels ? `, levels ${levels.join(' ')}` : ''
      return {
        series: `${method}${factors}`,
        label: `keep ${keep}, ${whitening}, labels ${labels}, ${storage}, on ${source}${steps}`,
        aside: storage !== 'pivoted' || levels !== undefined,
        ...(source === 'text' ? {} : { calibratedOn: source }),
      }
    }
  }
}

/** Rows of one static method, or of one set of levels whatever the shape of the schedule, are one line. */
function progressiveName(model: LowRank, { schedule = '', above }: QualityRow): Name {
  const [family = '', from, to] = schedule.split(':')
  const label = `keep ${model.keep}, ${model.method}, ${schedule}`
  const levels = model.levels?.length ?? 1
  if (Number(from) > Number(to)) {
    if (above?.kind === 'dense') return { series: 'dense, then one level', label }
    return { series: above ? 'falling, two models' : `falling, ${levels} levels`, label }
  }
  if (family === 'full' && levels === 1) {
    return { series: model.method === 'curve' ? 'curve, static' : 'earlier methods, static', label }
  }
  return { series: 'not falling, of several levels', label, aside: true }
}
