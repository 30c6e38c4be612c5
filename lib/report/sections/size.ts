import { heldOutSource } from '../../checkpoint/plan.js'
import { neutralStyle, type Series, seriesPlot } from '../../plots.js'
import { type ReportContents, tensorBytes } from '../contents.js'
import type { Figure, Section } from '../html.js'
import type { MeasuredModel } from '../measured.js'
import type { QualityRows } from '../quality.js'

/** Perplexities beyond so many times the least are left to the table. */
const farthest = 8

/** Perplexity against stored bytes: this checkpoint's, and those of a table of methods where one is given. */
export async function sizeSection(contents: ReportContents): Promise<Section | undefined> {
  const figures = [await ownFigure(contents), await methodsFigure(contents.quality)].filter(
    (figure) => figure !== undefined,
  )
  if (figures.length === 0) return undefined
  return {
    id: 'size',
    title: 'Quality against size',
    lead:
      'Perplexity is how many equally likely next tokens the model hesitates between, on average: lower is better. ' +
      'The only fair comparison of methods is at equal bytes.',
    figures,
  }
}

/** Measured when the checkpoint was made, on windows that it was not calibrated on. */
async function ownFigure({ plan, inspection }: ReportContents): Promise<Figure | undefined> {
  const heldOut = plan?.heldOut
  if (!heldOut) return undefined
  const { dense, levels } = heldOut
  const budget = (level: number) => inspection.levels[level]?.budget ?? 1
  const points = levels.map(({ perplexity }, level) => ({ x: budget(level), y: perplexity })).reverse()
  const title = 'Perplexity against active budget'
  const own = levels[0]?.perplexity ?? dense.perplexity
  const seen =
    `Level 0 has a perplexity of ${own.toFixed(2)} where the dense model has ${dense.perplexity.toFixed(2)} ` +
    `(${signed(own / dense.perplexity - 1)}).`
  const rows = levels.map(({ perplexity }, level) => [
    `level ${level}`,
    budget(level).toFixed(4),
    level === 0 ? (tensorBytes(inspection) / 1e6).toFixed(2) : undefined,
    perplexity.toFixed(3),
    signed(perplexity / dense.perplexity - 1),
  ])
  const table = {
    caption: 'Perplexity of the dense model and of each level; MB of all tensors',
    columns: ['model', 'active budget', 'MB', 'perplexity', 'beside dense'],
    rows: [
      [
        'dense',
        dense.budget?.toFixed(4) ?? '1',
        (dense.bytes / 1e6).toFixed(2),
        dense.perplexity.toFixed(3),
        '',
      ],
      ...rows,
    ],
  }
  const measuredOn = heldOutSource(heldOut)
  if (levels.length < 2) return { caption: `${seen} ${measuredOn}`, table }
  return {
    svg: await seriesPlot({
      ...{ id: 'size-figure', title, description: seen },
      x: { label: 'active budget (block parameters read / dense)' },
      y: { label: 'perplexity' },
      series: [{ name: 'this model', points }],
      references: [{ name: 'dense', y: dense.perplexity }],
      height: 260,
    }),
    caption: `Perplexity at each level. ${seen} ${measuredOn}`,
    table,
  }
}

function signed(change: number): string {
  return `${change < 0 ? '−' : '+'}${Math.abs(change * 100).toFixed(1)}%`
}

type Sized = MeasuredModel & { bytes: number; perplexity: number }

async function methodsFigure(quality: QualityRows | undefined): Promise<Figure | undefined> {
  const models = (quality?.models ?? []).filter(
    (model): model is Sized => model.bytes !== undefined && model.perplexity !== undefined,
  )
  const drawn = models.filter(({ aside, calibratedOn }) => aside !== true && calibratedOn === undefined)
  if (!quality || drawn.length === 0) return undefined
  const limit = farthest * Math.min(...drawn.map(({ perplexity }) => perplexity))
  const series = seriesOf(drawn.filter(({ perplexity }) => perplexity <= limit))
  const beyond = drawn.filter(({ perplexity }) => perplexity > limit).length
  const left = beyond > 0 ? ` ${beyond} models beyond ${limit.toFixed(0)} are in the table only.` : ''
  const title = 'Perplexity against stored size'
  const seen = `Each method is drawn in its best whitening at each keep.${left}`
  return {
    svg: await seriesPlot({
      ...{ id: 'methods-figure', title, description: seen },
      x: { label: 'stored size, MB' },
      y: { label: 'perplexity', type: 'log' },
      names: 'top',
      series,
      height: 420,
    }),
    caption: `Perplexity (logarithmic scale) against megabytes of all tensors. ${seen} ${quality.caption}`,
    table: {
      caption: title,
      columns: ['model', 'variant', 'kept', 'MB', 'perplexity'],
      rows: models
        .toSorted((a, b) => b.bytes - a.bytes || a.perplexity - b.perplexity)
        .map(({ series: name, label, keep, bytes, perplexity }) => [
          name,
          label,
          keep.toFixed(3),
          (bytes / 1e6).toFixed(bytes < 1e7 ? 3 : 1),
          perplexity < 1e4 ? perplexity.toFixed(2) : perplexity.toExponential(1),
        ]),
    },
  }
}

/** Dense models as labelled points, then a line for each method, the best of equal keeps. */
function seriesOf(models: readonly Sized[]): Series[] {
  const names = [...new Set(models.map(({ series }) => series))]
  const order = [
    'dense',
    'curve',
    'curve, int8 factors',
    'curve, int4 factors',
    'fisher',
    'energy',
    'uniform',
    'asvd',
  ]
  const place = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length)
  return names
    .sort((a, b) => place(a) - place(b))
    .map((name, index) => {
      const mine = models.filter(({ series }) => series === name)
      const point = ({ bytes, perplexity }: Sized) => ({ x: bytes / 1e6, y: perplexity })
      if (name === 'dense') {
        return {
          name,
          scattered: true,
          style: neutralStyle,
          points: mine.map((model) => ({ ...point(model), label: model.label })),
        }
      }
      const best = new Map<string, Sized>()
      for (const model of mine) {
        const keep = model.keep.toFixed(2)
        const other = best.get(keep)
        if (!other || model.perplexity < other.perplexity) best.set(keep, model)
      }
      return { name, style: index - 1, points: [...best.values()].sort((a, b) => a.bytes - b.bytes).map(point) }
    })
}
