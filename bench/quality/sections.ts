import type { AllocationMethod } from 'flrc'
import type { CalibrationSource, CalibrationSpec, LowRankSpec, Measure, ModelSpec, RowSpec } from './rows.js'

export const sectionNames = ['methods', 'bytes', 'levels', 'channels', 'calibration', 'further'] as const
export type SectionName = (typeof sectionNames)[number]

/** What there is to measure with, and at which keeps. */
export interface PlanOptions {
  keeps: readonly number[]
  /** What the dense model and factors that are not quantised are held in. */
  dtype: 'f32' | 'bf16'
  /** The keep whose pivoted rows are measured on choices; undefined without choices. */
  choiceKeep: number | undefined
  /** What data was given for. */
  dialogues: boolean
  summaries: boolean
  transfer: boolean
  full: boolean
  /** Whether the calibration text has `<unk>` as a word. */
  unknowns: boolean
  /** Whether the source holds its projections in 8 bits or fewer. */
  quantisedSource: boolean
}

/** One combination of the methods' table; the labels matter where gradients do. */
interface MethodRow {
  method: AllocationMethod
  calibration: CalibrationSpec
}

const onText = (calibration: Omit<CalibrationSpec, 'source'>): CalibrationSpec => ({
  source: 'text',
  ...calibration,
})

const everyMethod = (calibration: CalibrationSpec): MethodRow[] =>
  (['uniform', 'energy', 'fisher', 'curve'] as const).map((method) => ({ method, calibration }))

export const methodRows: readonly MethodRow[] = [
  { method: 'uniform', calibration: onText({ whitening: 'none', labels: 'data' }) },
  { method: 'asvd', calibration: onText({ whitening: 'scaled', labels: 'data' }) },
  ...everyMethod(onText({ whitening: 'input', labels: 'data' })),
  ...everyMethod(onText({ whitening: 'two-sided', labels: 'data' })),
  ...everyMethod(onText({ whitening: 'two-sided', labels: 'model' })),
  ...everyMethod(onText({ whitening: 'two-sided', labels: 'model', shrunk: true })),
]

export const storages = ['plain', 'pivoted'] as const
const byteKeeps = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
const channelKeeps = [0.8, 0.7, 0.6, 0.5]
const calibrationKeeps = [0.9, 0.8]
/** Whether what dropped channels gain on the calibration's kind of text holds for another kind, and what mends it. */
const narrowSources: readonly CalibrationSource[] = ['text', 'half dialogues']
const narrowKeep = 0.8
/** How far the lowest level lies below keep, whatever their number, so that rows differ in that alone. */
const levelSpan = 0.2
const levelCounts = [2, 4]

/** The budgets of `count` levels at even steps from `keep` down, to two figures; undefined where there is no room. */
export function levelsBelow(keep: number, count: number): number[] | undefined {
  if (keep - levelSpan < 0.1) return undefined
  return Array.from({ length: count }, (_, level) =>
    level === 0 ? keep : Math.round((keep - (levelSpan * level) / (count - 1)) * 100) / 100,
  )
}

/** The package's defaults. */
function defaultRow(
  keep: number,
  dtype: LowRankSpec['dtype'],
  source: CalibrationSource = 'text',
): LowRankSpec {
  return {
    kind: 'low-rank',
    calibration: { source, whitening: 'two-sided', labels: 'model', shrunk: true },
    method: 'curve',
    storage: 'pivoted',
    dtype,
    keep,
  }
}

/** Choices take twice the time of perplexity, so of low rank only one keep's rows have them. */
function measuresOf({ choiceKeep }: PlanOptions, model: ModelSpec): Measure[] {
  if (choiceKeep === undefined) return ['perplexity']
  const isDense = model.kind !== 'low-rank' || model.keep === 1
  const chosen = isDense || (model.keep === choiceKeep && model.storage === 'pivoted')
  return chosen ? ['perplexity', 'choice'] : ['perplexity']
}

function usual(options: PlanOptions, models: readonly ModelSpec[]): RowSpec[] {
  return models.map((model) => ({ model, measures: measuresOf(options, model) }))
}

/** What any low rank stands beside: the dense model, and rounded as carefully as we round factors. */
function references(dtype: PlanOptions['dtype']): ModelSpec[] {
  return [{ kind: 'dense', dtype }, defaultRow(1, 'int8'), defaultRow(1, 'int4')]
}

const denseModels: readonly ModelSpec[] = [
  ...(['f32', 'bf16', 'int8', 'int4'] as const).map((dtype) => ({ kind: 'dense' as const, dtype })),
  ...([3, 2] as const).map((blockBits) => ({ kind: 'rounded' as const, blockBits })),
]

function methodsSection(options: PlanOptions): RowSpec[] {
  const { keeps, dtype } = options
  const grid = methodRows.flatMap((row) =>
    storages.flatMap((storage) =>
      keeps.map((keep) => ({ kind: 'low-rank' as const, ...row, storage, dtype, keep })),
    ),
  )
  const quantised = (['int8', 'int4'] as const).flatMap((factors) =>
    keeps.map((keep) => defaultRow(keep, factors)),
  )
  return usual(options, [...denseModels, ...grid, ...quantised])
}

function bytesSection(options: PlanOptions): RowSpec[] {
  const dense = denseModels.filter((model) => model.kind !== 'dense' || model.dtype !== 'f32')
  const source: ModelSpec[] = options.quantisedSource ? [{ kind: 'source' }] : []
  const factors = [options.dtype, 'int8', 'int4'] as const
  const lowRank = byteKeeps.flatMap((keep) => factors.map((dtype) => defaultRow(keep, dtype)))
  const narrow = channelKeeps.flatMap((keep) =>
    factors.map((dtype) => ({ ...defaultRow(keep, dtype), drops: true })),
  )
  const [, ...calibrated] = references(options.dtype)
  return usual(options, [...dense, { kind: 'rounded' }, ...source, ...calibrated, ...lowRank, ...narrow])
}

function levelsSection(options: PlanOptions): RowSpec[] {
  const models = options.keeps.flatMap((keep) => {
    const one = defaultRow(keep, options.dtype)
    const several = levelCounts.flatMap((count) => {
      const levels = levelsBelow(keep, count)
      return levels === undefined ? [] : [{ ...one, levels }]
    })
    return [one, ...several]
  })
  return usual(options, [...references(options.dtype), ...models])
}

/** Where little is kept, with and without channels. */
function channelsSection(options: PlanOptions): RowSpec[] {
  const models = channelKeeps.flatMap((keep) => {
    const whole = defaultRow(keep, options.dtype)
    return [whole, { ...whole, drops: true }]
  })
  return usual(options, [...references(options.dtype), ...models])
}

function calibrationSection(options: PlanOptions): RowSpec[] {
  const sources: CalibrationSource[] = options.dialogues
    ? ['text', 'half dialogues', 'dialogues', 'self', 'self and text']
    : ['text', 'self', 'self and text']
  const models: ModelSpec[] = sources.flatMap((source) => [
    ...calibrationKeeps.flatMap((keep) =>
      (['curve', 'uniform'] as const).map((method) => ({
        ...defaultRow(keep, options.dtype, source),
        method,
      })),
    ),
    ...(narrowSources.includes(source)
      ? [{ ...defaultRow(narrowKeep, options.dtype, source), drops: true }]
      : []),
  ])
  const rows = usual(options, models)
  const dense = usual(options, references(options.dtype))
  if (!options.summaries) return [...dense, ...rows]
  const trivial = (['first words', 'constant'] as const).map((summary) => ({
    model: { kind: 'trivial' as const, summary },
    measures: ['summaries' as const],
  }))
  const withSummaries = (row: RowSpec) => ({ ...row, measures: [...row.measures, 'summaries' as const] })
  return [...dense.map(withSummaries), ...trivial, ...rows.map(withSummaries)]
}

/** The default beside SVD-LLM and the Fisher score, on other text than the tables'. */
function furtherSection(options: PlanOptions): RowSpec[] {
  const measures: Measure[] = ['perplexity']
  if (options.full) measures.push('full')
  if (options.transfer) measures.push('transfer')
  const rows: RowSpec[] = references(options.dtype).map((model) => ({ model, measures }))
  for (const keep of options.keeps) {
    const best = defaultRow(keep, options.dtype)
    const input = { source: 'text', whitening: 'input', labels: 'data' } as const
    rows.push(
      { model: { ...best, calibration: input, method: 'uniform' }, measures },
      { model: { ...best, calibration: input, method: 'fisher' }, measures },
      { model: best, measures },
    )
    if (channelKeeps.includes(keep)) rows.push({ model: { ...best, drops: true }, measures })
    if (options.unknowns) {
      rows.push({ model: defaultRow(keep, options.dtype, 'text without <unk>'), measures })
    }
  }
  return rows
}

const sections: Record<SectionName, (options: PlanOptions) => RowSpec[]> = {
  methods: methodsSection,
  bytes: bytesSection,
  levels: levelsSection,
  channels: channelsSection,
  calibration: calibrationSection,
  further: furtherSection,
}

/** The rows of one table, in its order. */
export function planSection(name: SectionName, options: PlanOptions): RowSpec[] {
  return sections[name](options)
}
