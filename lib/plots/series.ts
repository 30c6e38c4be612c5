import type { CurveName, Markish } from '@observablehq/plot'
import { colour, seriesColour, seriesColours } from './colours.js'
import { draw, type FigureText, gridStroke, type PlotLibrary, plotLibrary, textWidth } from './draw.js'
import { formatTick, logTicks, wholeTicks } from './ticks.js'

export interface SeriesPoint {
  x: number
  y: number
  /** Ends of an interval around y. */
  low?: number
  high?: number
  /** Stands beside the point. */
  label?: string
}

export interface Series {
  name: string
  points: readonly SeriesPoint[]
  /** Points stand for themselves, without a line from one to the next. */
  scattered?: boolean
  dashed?: boolean
  /** The colour and symbol of this index, where its place among the series is not to decide. */
  style?: number
}

export interface Axis {
  label: string
  /** Linear by default. */
  type?: 'linear' | 'log'
  domain?: [number, number]
  /** Only whole numbers are marked. */
  whole?: boolean
}

/** A value that all series are compared with. */
export interface Reference {
  name: string
  y: number
}

export interface SeriesPlot extends FigureText {
  x: Axis
  y: Axis
  series: readonly Series[]
  references?: readonly Reference[]
  /** Where names stand: at the right end of each line (default), above the plot, or in another plot. */
  names?: 'end' | 'top' | 'elsewhere'
  /** How points are connected; straight by default. `step-after` keeps a value until the next. */
  curve?: CurveName
  width?: number
  height?: number
}

const symbols = ['circle', 'square', 'triangle', 'diamond', 'star', 'cross', 'wye', 'hexagon'] as const
/** Pixels between the baselines of labels. */
const lineHeight = 15
/** Of a legend's symbol, and between its entries. */
const swatch = 16
const gap = 14
/** Between a legend and the plot, whose highest symbol reaches its edge. */
const underLegend = 6
const margins = { left: 58, bottom: 40, right: 20, top: 26 }
/** Between a point and its label. */
const besideDot = 7
/** Values beyond so many in a line are drawn without symbols. */
const mostSymbols = 40

/**
 * Lines and points of several series over one pair of axes, as SVG (see `draw`). Series differ in colour and
 * symbol, and each is named beside its line or above the plot.
 */
export async function seriesPlot(figure: SeriesPlot): Promise<string> {
  const plot = await plotLibrary()
  const { series, references = [], names = 'end', width = 640, height = 340 } = figure
  const xDomain = domainOf(
    figure.x,
    series.flatMap(({ points }) => points.map((point) => point.x)),
  )
  const values = series.flatMap(({ points }) => points.flatMap(({ y, low = y, high = y }) => [y, low, high]))
  const yDomain = domainOf(figure.y, [...values, ...references.map((reference) => reference.y)])
  const [xType, yType] = [figure.x.type ?? 'linear', figure.y.type ?? 'linear']
  const legend = names === 'top' ? legendRows(series, width - margins.left - margins.right) : []
  const widest = Math.max(
    0,
    ...[...(names === 'end' ? series : []), ...references].map(({ name }) => textWidth(name)),
  )
  const marginTop = margins.top + legendHeight(legend.length)
  const marginRight = widest > 0 ? widest + 24 : margins.right
  const toPixel = plot.scale({
    y: { type: yType, domain: yDomain, range: [height - margins.bottom, marginTop] },
  }).apply
  const toLeft = plot.scale({
    x: { type: xType, domain: xDomain, range: [margins.left, width - marginRight] },
  }).apply
  const fits = ({ x, label = '' }: SeriesPoint) => toLeft(x) + besideDot + textWidth(label) <= width
  const curve = figure.curve ?? 'linear'
  return draw(figure, {
    width,
    height,
    marginTop,
    marginRight,
    marginBottom: margins.bottom,
    marginLeft: margins.left,
    x: { type: xType, domain: xDomain },
    y: { type: yType, domain: yDomain },
    marks: [
      plot.gridY({ ...gridStroke, ...ticksOf(figure.y, yDomain) }),
      plot.axisX({
        label: figure.x.label,
        labelAnchor: 'center',
        labelArrow: 'none',
        tickSize: 4,
        ...ticksOf(figure.x, xDomain),
      }),
      plot.axisY({ label: null, tickSize: 0, ...ticksOf(figure.y, yDomain) }),
      title(plot, figure.y.label, legend.length),
      ...legend.flatMap((row, index) => row.flatMap((entry) => legendEntry(plot, entry, index, legend.length))),
      ...references.map((reference) =>
        plot.ruleY([reference.y], { stroke: colour('muted'), strokeDasharray: '2,4', strokeWidth: 1.2 }),
      ),
      ...series.flatMap((one, index) => seriesMarks(plot, one, { style: styleOf(one, index), curve, fits })),
      ...endLabels(plot, names === 'end' ? series : [], references, (value) => toPixel(value) - marginTop, {
        lowest: 0,
        highest: height - margins.bottom - marginTop,
      }),
    ],
  })
}

function styleOf({ style }: Series, index: number): number {
  return style ?? index
}

function domainOf({ type, domain, whole }: Axis, values: readonly number[]): [number, number] {
  if (domain) return domain
  const [low, high] = [Math.min(...values), Math.max(...values)]
  if (type === 'log') return [low / 1.05, high * 1.05]
  const room = (high - low || Math.abs(high) || 1) * 0.04
  return whole ? [low, high] : [low - room, high + room]
}

function ticksOf({ type, whole }: Axis, domain: [number, number]) {
  if (type === 'log') return { ticks: logTicks(domain), tickFormat: formatTick }
  return whole ? { ticks: wholeTicks(domain), tickFormat: String } : { ticks: 6 }
}

/** The value axis's label, above the plot where it can be read without turning one's head. */
function title(plot: PlotLibrary, text: string, rows: number): Markish {
  return plot.text([text], {
    ...{ frameAnchor: 'top-left', textAnchor: 'start', lineAnchor: 'bottom' },
    ...{ dx: -margins.left + 2, dy: -10 - legendHeight(rows), fill: colour('muted') },
  })
}

function legendHeight(rows: number): number {
  return rows > 0 ? rows * lineHeight + underLegend : 0
}

interface LegendEntry {
  name: string
  style: number
  left: number
}

function legendRows(series: readonly Series[], width: number): LegendEntry[][] {
  const rows: LegendEntry[][] = [[]]
  let left = 0
  for (const [index, one] of series.entries()) {
    const needed = swatch + textWidth(one.name) + gap
    if (left > 0 && left + needed > width) {
      rows.push([])
      left = 0
    }
    rows.at(-1)?.push({ name: one.name, style: styleOf(one, index), left })
    left += needed
  }
  return rows
}

function legendEntry(
  plot: PlotLibrary,
  { name, style, left }: LegendEntry,
  row: number,
  rows: number,
): Markish[] {
  const dy = -8 - underLegend - (rows - 1 - row) * lineHeight
  const place = { frameAnchor: 'top-left' as const, dy }
  return [
    plot.dot([0], { ...place, dx: left + 5, r: 4, ...symbolOf(style) }),
    plot.text([name], { ...place, dx: left + swatch, textAnchor: 'start', lineAnchor: 'middle' }),
  ]
}

function symbolOf(style: number) {
  // Where colours repeat, symbols do not go with them.
  const shifted = style + Math.floor(style / seriesColours)
  return { symbol: symbols[shifted % symbols.length] ?? 'circle', fill: seriesColour(style) }
}

interface Drawn {
  style: number
  curve: CurveName
  /** Whether a point's label has room on its right. */
  fits: (point: SeriesPoint) => boolean
}

function seriesMarks(plot: PlotLibrary, series: Series, { style, curve, fits }: Drawn): Markish[] {
  const { points, scattered = false, dashed = false } = series
  const at = { x: 'x', y: 'y' }
  const marks: Markish[] = []
  if (!scattered) {
    const dash = dashed ? { strokeDasharray: '5,4', strokeWidth: 1.2 } : { strokeWidth: 1.8 }
    marks.push(plot.line(points, { ...at, stroke: seriesColour(style), curve, ...dash }))
  }
  const spans = points.filter(({ low, high }) => low !== undefined && high !== undefined)
  marks.push(
    plot.ruleX(spans, { x: 'x', y1: 'low', y2: 'high', stroke: seriesColour(style), strokeOpacity: 0.6 }),
  )
  const shown = curve === 'linear' && !dashed && points.length <= mostSymbols
  if (shown || scattered) marks.push(plot.dot(points, { ...at, r: 3.5, ...symbolOf(style) }))
  const beside = { ...at, text: 'label', dy: -besideDot, fontSize: 11, fill: seriesColour(style) }
  const labelled = points.filter(({ label }) => label !== undefined)
  const onRight = { ...beside, textAnchor: 'start' as const, dx: besideDot }
  const onLeft = { ...beside, textAnchor: 'end' as const, dx: -besideDot }
  marks.push(plot.text(labelled.filter(fits), onRight))
  marks.push(
    plot.text(
      labelled.filter((point) => !fits(point)),
      onLeft,
    ),
  )
  return marks
}

/** Names at the lines' ends, moved apart where they would overlap, and those of the references. */
function endLabels(
  plot: PlotLibrary,
  series: readonly Series[],
  references: readonly Reference[],
  toPixel: (value: number) => number,
  bounds: { lowest: number; highest: number },
): Markish[] {
  const ends = series.flatMap((one, index) => {
    const last = one.points.at(-1)
    return last ? [{ name: one.name, fill: seriesColour(styleOf(one, index)), wanted: toPixel(last.y) }] : []
  })
  const labels = [
    ...ends,
    ...references.map(({ name, y }) => ({ name, fill: colour('muted'), wanted: toPixel(y) })),
  ]
  const places = spread(
    labels.map(({ wanted }) => wanted),
    lineHeight,
    bounds,
  )
  return labels.map(({ name, fill }, index) =>
    plot.text([name], {
      ...{ frameAnchor: 'top-right', textAnchor: 'start', lineAnchor: 'middle' },
      ...{ dx: 10, dy: places[index] ?? 0, fill, fontWeight: 600 },
    }),
  )
}

/**
 * Places at least `distance` apart and within the bounds where they have room, in the order of the places
 * wanted and, by the least sum of squares, as near to them as that allows (pool adjacent violators).
 */
export function spread(
  wanted: readonly number[],
  distance: number,
  { lowest, highest }: { lowest: number; highest: number },
): number[] {
  const order = wanted.map((_, index) => index).sort((a, b) => (wanted[a] ?? 0) - (wanted[b] ?? 0))
  const blocks: { sum: number; count: number }[] = []
  for (const [place, index] of order.entries()) {
    let block = { sum: (wanted[index] ?? 0) - place * distance, count: 1 }
    let previous = blocks.at(-1)
    while (previous && previous.sum / previous.count > block.sum / block.count) {
      blocks.pop()
      block = { sum: previous.sum + block.sum, count: previous.count + block.count }
      previous = blocks.at(-1)
    }
    blocks.push(block)
  }
  const most = highest - (wanted.length - 1) * distance
  const offsets = blocks.flatMap(({ sum, count }) =>
    Array.from({ length: count }, () => Math.max(lowest, Math.min(most, sum / count))),
  )
  const places: number[] = []
  for (const [place, index] of order.entries()) places[index] = (offsets[place] ?? 0) + place * distance
  return places
}
