import { neutralStyle, type Series, seriesPlot } from '../../plots.js'
import type { ReportContents } from '../contents.js'
import type { Figure, Section } from '../html.js'
import type { MeasuredModel, MeasuredSummaries, RougeL } from '../measured.js'

/** So many lines have colours of their own; those of fewest points are left to the table. */
const mostLines = neutralStyle

/** What summaries are compared with. */
const measures = [
  {
    id: 'rouge-dense',
    title: "ROUGE-L against the dense model's summaries",
    of: ({ dense }: MeasuredSummaries) => dense,
  },
  {
    id: 'rouge-people',
    title: "ROUGE-L against people's summaries",
    of: ({ people }: MeasuredSummaries) => people,
  },
] as const

type Measure = (typeof measures)[number]

/** A model and its score by one measure. */
interface Scored {
  model: MeasuredModel
  /** Undefined for what takes no model. */
  at: number | undefined
  /** What makes it a point of its line of its own. */
  point: string
  score: RougeL
}

/** ROUGE-L of summaries against the mean active budget, beside what takes no model. */
export async function rougeSection({ quality }: ReportContents): Promise<Section | undefined> {
  const models = quality?.models ?? []
  const figures: Figure[] = []
  for (const measure of measures) {
    const figure = await figureOf(measure, scored(models, measure), quality?.summariesCaption)
    if (figure) figures.push(figure)
  }
  if (figures.length === 0) return undefined
  return {
    id: 'rouge',
    title: 'Summaries against what is read',
    lead:
      "ROUGE-L measures how much of other summaries of the same dialogues the model's share, from 0 to 1: higher is " +
      'better. Where rows that take no model score higher, the measure says little of this model.',
    figures,
  }
}

function scored(models: readonly MeasuredModel[], { of }: Measure): Scored[] {
  return models.flatMap((model) => {
    const score = model.summaries && of(model.summaries)
    if (!score) return []
    const { budget = 1, meanActiveBudget: at } = model.summaries ?? {}
    return [{ model, at, point: model.series === 'dense' ? model.label : budget.toFixed(2), score }]
  })
}

async function figureOf(
  { id, title }: Measure,
  rows: readonly Scored[],
  measuredOn = '',
): Promise<Figure | undefined> {
  const budgeted = rows.filter(({ at }) => at !== undefined)
  const cut = budgeted.filter(({ model }) => model.series !== 'dense')
  if (cut.length === 0) return undefined
  const { series, left } = seriesOf(budgeted)
  const trivial = new Map(
    rows.flatMap(({ at, model, score }) => (at === undefined ? [[model.label, score.mean] as const] : [])),
  )
  const most = (means: Iterable<number>) => Math.max(...means).toFixed(3)
  const best = most(cut.map(({ score }) => score.mean))
  const beaten =
    trivial.size > 0
      ? ` The best compressed model has ${best}, the best row without a model ${most(trivial.values())}.`
      : ''
  const more = left > 0 ? ` ${left} more series are in the table only.` : ''
  return {
    svg: await seriesPlot({
      ...{ id: `${id}-figure`, title, description: `Higher is better.${beaten}` },
      x: { label: 'mean active budget' },
      y: { label: 'ROUGE-L' },
      names: 'top',
      series,
      references: [...trivial].map(([name, y]) => ({ name, y })),
      height: 320,
    }),
    caption:
      `${title}, with 95% intervals, over the mean share of dense block parameters read per token; each series at its ` +
      `best for each budget.${beaten}${more} ${measuredOn}`.trimEnd(),
    table: {
      caption: title,
      columns: ['model', 'variant', 'mean active budget', 'ROUGE-L', 'low', 'high'],
      rows: rows.map(({ model, at, score: { mean, interval } }) => [
        nameOf(model),
        model.label,
        at?.toFixed(3),
        mean.toFixed(3),
        interval?.[0].toFixed(3),
        interval?.[1].toFixed(3),
      ]),
    },
  }
}

/** Calibration texts make more of a difference to summaries than to be one line. */
function nameOf({ series, calibratedOn }: MeasuredModel): string {
  return calibratedOn === undefined ? series : `${series}, calibrated on ${calibratedOn}`
}

/** Lines of the best at each budget, and dense models as labelled points. `left`: how many lines have no place. */
function seriesOf(rows: readonly Scored[]): { series: Series[]; left: number } {
  const lines = new Map<string, Map<string, Scored>>()
  for (const row of rows) {
    if (row.model.aside === true) continue
    const series = nameOf(row.model)
    const points = lines.get(series) ?? new Map<string, Scored>()
    const other = points.get(row.point)
    if (!other || row.score.mean > other.score.mean) points.set(row.point, row)
    lines.set(series, points)
  }
  const { dense, ...cut } = Object.fromEntries(lines)
  const ordered = Object.entries(cut).sort(([, a], [, b]) => b.size - a.size)
  const drawn = ordered.slice(0, mostLines).map(([name, points]) => ({ name, points: placed(points) }))
  const whole = dense && { name: 'dense', style: neutralStyle, scattered: true, points: placed(dense) }
  return {
    series: [...(whole ? [whole] : []), ...drawn.map((line, style) => ({ ...line, style }))],
    left: ordered.length - drawn.length,
  }
}

function placed(points: ReadonlyMap<string, Scored>): Series['points'] {
  return [...points.values()]
    .map(({ at = 1, score: { mean, interval }, model }) => ({
      x: at,
      y: mean,
      ...(interval ? { low: interval[0], high: interval[1] } : {}),
      ...(model.series === 'dense' ? { label: model.label } : {}),
    }))
    .sort((a, b) => a.x - b.x)
}
