/** Rows to a figure: does a falling rank beat a static one at equal bytes per token? */
import { FlrcError } from '#lib/errors.js'
import {
  type Axis,
  neutralStyle,
  type Reference,
  type Series,
  type SeriesPoint,
  seriesPlot,
  spread,
  stacked,
} from '#lib/plots.js'
import type { Interval } from '../quality/rows.js'
import type { Settings } from '../quality/store.js'
import type { RowPlan } from './rows.js'
import type { MeasuredRow } from './tables.js'

export type PlottedRow = MeasuredRow & Pick<RowPlan, 'fall'>

/** From left to right among rows of equal budgets, and in the legend. */
const families = [
  { name: 'static: earlier methods', style: neutralStyle },
  { name: 'static: curve', style: 0 },
  { name: 'static: a level of joint levels', style: 1 },
  { name: 'prompt at level 0, then constant', style: 2 },
  { name: 'falling: step, linear, cosine, exponential', style: 3 },
  { name: 'falling: step, levels that share nothing', style: 8 },
  { name: 'falling: calibrated', style: 4 },
  { name: 'falling: adaptive', style: 5 },
  { name: 'rising: step reversed', style: 6 },
] as const

type Family = (typeof families)[number]['name']

interface Measured {
  value: number
  interval?: Interval
}

interface Measure {
  id: string
  title: string
  label: string
  of: (row: PlottedRow) => Measured | undefined
}

const kl: Measure = {
  id: 'progressive-kl',
  title: 'KL to the dense model against mean active budget',
  label: 'KL to the dense model, nats; lower is better',
  of: ({ figures: { quality } }) => quality && { value: quality.meanKl, interval: quality.intervals.meanKl },
}
const rouge: Measure = {
  id: 'progressive-rouge',
  title: 'ROUGE-L against mean active budget',
  label: "ROUGE-L against the dense model's own summaries; higher is better",
  of: ({ figures: { summaries: { dense } = { dense: undefined } } }) =>
    dense && { value: dense.rougeL, interval: dense.interval },
}

const budgetLabel =
  'mean active budget (block parameters read per token / dense), to a hundredth; equal ones side by side'
const [width, height] = [860, 420]
/** So many marks, or those of so small a range of budgets, have the whole width. */
const mostAcross = 54
const leastRange = 0.05
/** Dense models below so many times the least value of the rows would leave these no room on a logarithmic axis. */
const farthest = 0.3

/**
 * Mean KL to the dense model and, where summaries were measured, ROUGE-L against the dense model's own below it,
 * each against the mean active budget: at equal ones, equally many bytes of the blocks are read per token.
 * Quantised dense models are lines across, since their bytes are no matter of budget. Self-speculation is left
 * out: its text is that of level 0, which has a mark.
 *
 * @returns SVG for `standalone`
 * @throws E_NOT_FOUND where no row of low rank was measured
 */
export async function progressivePlot(rows: readonly PlottedRow[], settings: Settings): Promise<string> {
  const figure = {
    id: 'progressive',
    title: `Progressive decoding of ${settings.model}: quality against mean active budget`,
    description:
      `A mark is a row of the benchmark, with its interval of 95%, along at most ${settings.maxTokens} tokens after ` +
      `prompts of ${settings.prompts}. At equal mean active budgets equally many bytes of the blocks are read per token.`,
  }
  const placed = sideBySide(rows)
  const first = await measurePlot(kl, placed, 'top')
  if (first === undefined) {
    throw new FlrcError('E_NOT_FOUND', 'no row of low rank has its quality measured: there is nothing to plot')
  }
  const second = await measurePlot(rouge, placed, 'elsewhere')
  return stacked(figure, second === undefined ? [first] : [first, second])
}

interface Placed {
  row: PlottedRow
  family?: Family
  /** The mean active budget to a hundredth, moved where others have the same. */
  x: number
}

function sideBySide(rows: readonly PlottedRow[]): Placed[] {
  const drawn = families.flatMap(({ name: family }) =>
    rows.flatMap((row): Placed[] => {
      const { quality } = row.figures
      if (familyOf(row) !== family || quality === undefined) return []
      return [{ row, family, x: Math.round(100 * quality.meanActiveBudget) / 100 }]
    }),
  )
  const budgets = drawn.map(({ x }) => x)
  const range = Math.max(leastRange, Math.max(...budgets) - Math.min(...budgets))
  const bounds = { lowest: Number.NEGATIVE_INFINITY, highest: Number.POSITIVE_INFINITY }
  const places = spread(budgets, range / Math.max(mostAcross, drawn.length), bounds)
  const moved = drawn.map((one, index) => ({ ...one, x: places[index] ?? one.x }))
  const dense = rows.flatMap((row) => (isDense(row) ? [{ row, x: 1 }] : []))
  return [...moved, ...dense]
}

/** Undefined where no row of low rank has the measure. */
async function measurePlot(
  { id, title, label, of }: Measure,
  rows: readonly Placed[],
  names: 'top' | 'elsewhere',
): Promise<string | undefined> {
  const series = families.flatMap(({ name, style }): Series[] => {
    const points = rows.flatMap((placed) => (placed.family === name ? pointsOf(placed, of) : []))
    if (points.length === 0) return []
    return [{ name, points, scattered: true, style }]
  })
  if (series.length === 0) return undefined
  const values = series.flatMap(({ points }) => points.flatMap(({ y, low = y }) => [y, low]))
  // Methods lie orders of magnitude apart in KL, and a few hundredths apart in ROUGE.
  const type: Axis['type'] = id === kl.id && Math.min(...values) > 0 ? 'log' : 'linear'
  const dense = rows.flatMap(({ row }): Reference[] => {
    const found = isDense(row) ? of(row) : undefined
    return found === undefined ? [] : [{ name: row.name, y: found.value }]
  })
  const least = type === 'log' ? farthest * Math.min(...values) : Number.NEGATIVE_INFINITY
  const below = dense.filter(({ y }) => y < least).map(({ name, y }) => `${name} ${formatFigure(y)}`)
  const shown = below.length > 0 ? `${label}; below the scale: ${below.join(', ')}` : label
  const references = dense.filter(({ y }) => y >= least)
  return seriesPlot({
    ...{ id, title, description: shown, names, series, references, width, height },
    x: { label: budgetLabel },
    y: { label: shown, type },
  })
}

const formatFigure = (value: number) => String(Number(value.toPrecision(2)))

/** As loaded, or rounded against the calibration. */
function isDense({ model }: PlottedRow): boolean {
  return model.kind === 'dense' || (model.kind === 'low-rank' && model.keep === 1)
}

function familyOf({ model, fall, from, above }: PlottedRow): Family | undefined {
  if (model.kind !== 'low-rank' || model.keep === 1) return undefined
  if (above !== undefined) return 'falling: step, levels that share nothing'
  switch (fall.kind) {
    case 'full':
      if (from !== undefined || model.levels !== undefined) return 'static: a level of joint levels'
      return model.method === 'curve' ? 'static: curve' : 'static: earlier methods'
    case 'constant':
      return 'prompt at level 0, then constant'
    case 'fitted':
      return 'falling: step, linear, cosine, exponential'
    case 'calibrated':
      return 'falling: calibrated'
    case 'adaptive':
      return 'falling: adaptive'
    case 'reversed':
      return 'rising: step reversed'
    case 'speculative':
      return undefined
  }
}

function pointsOf({ row, x }: Placed, of: Measure['of']): SeriesPoint[] {
  const measured = of(row)
  if (measured === undefined) return []
  const [low, high] = measured.interval ?? []
  return [{ x, y: measured.value, low, high }]
}
