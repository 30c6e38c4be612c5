import type { FigureText } from './draw.js'
import { mapPlot } from './map.js'
import { seriesPlot } from './series.js'

/** A projection of a compressed model. */
export interface PlottedProjection {
  layer: number
  kind: string
  /** Importance; undefined where it is not known. */
  score: number | undefined
  /** At each level. */
  ranks: readonly (number | 'dense')[]
  /** Parameters read at each level / dense ones. */
  shares: readonly number[]
}

/** Scores below this share of the largest are drawn at it. */
const least = 1e-6
/** Levels beyond so many are not drawn. */
export const mostPanels = 4

function kindsOf(projections: readonly PlottedProjection[]): string[] {
  return [...new Set(projections.map(({ kind }) => kind))]
}

/** Each projection's share of the largest score over the layers, a line for each kind (Figure 2 of the FLRC paper). */
export function scoresPlot(text: FigureText, projections: readonly PlottedProjection[]): Promise<string> {
  const largest = Math.max(...projections.map(({ score = 0 }) => score))
  const series = kindsOf(projections).map((kind) => ({
    name: kind,
    points: projections
      .filter((projection) => projection.kind === kind)
      .map(({ layer, score = 0 }) => ({ x: layer, y: Math.max(least, score / largest) })),
  }))
  return seriesPlot({
    ...text,
    x: { label: 'layer', whole: true },
    y: { label: 'score / largest score', type: 'log' },
    series,
    height: 360,
  })
}

/** The rank of every projection at the first levels, the deeper the more of it is read. */
export function ranksPlot(
  text: FigureText,
  projections: readonly PlottedProjection[],
  budgets: readonly number[],
): Promise<string> {
  const panels = budgets.slice(0, mostPanels).map((budget, level) => ({
    name: `${budgets.length > 1 ? `level ${level}, ` : ''}active budget ${budget.toFixed(3)}`,
    cells: projections.map(({ layer, kind, ranks, shares }) => ({
      column: layer,
      row: kind,
      share: shares[level] ?? 1,
      text: ranks[level] === 'dense' ? 'd' : String(ranks[level]),
    })),
  }))
  return mapPlot({ ...text, columnLabel: 'layer', rows: kindsOf(projections), panels })
}
