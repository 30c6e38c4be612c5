import type { Projection } from '../projections.js'

const marks = ' ▁▂▃▄▅▆▇█'
/** Scores this many times smaller than the largest are drawn as nothing. */
const decades = 3

/**
 * Scores of all projections, layers down and kinds across: a bar on a log scale over three decades below the
 * largest, and the share of the largest in per cent.
 */
export function scoreChart(
  projections: readonly Projection[],
  scores: Readonly<Record<string, number>>,
): string {
  const largest = Math.max(...projections.map(({ name }) => scores[name] ?? 0), Number.MIN_VALUE)
  const kinds = [...new Set(projections.map(({ kind }) => kind))]
  const layers = [...new Set(projections.map(({ layer }) => layer))]
  const title = `layer  ${kinds.map((kind) => kind.padStart(7)).join('')}`
  const rows = layers.map((layer) => {
    const cells = projections
      .filter((projection) => projection.layer === layer)
      .map(({ name }) => cell((scores[name] ?? 0) / largest))
    return `${String(layer).padStart(5)}  ${cells.join('')}`
  })
  return [title, ...rows].join('\n')
}

function cell(share: number): string {
  const height = share > 0 ? Math.max(0, 1 + Math.log10(share) / decades) : 0
  const mark = marks[Math.min(marks.length - 1, Math.ceil(height * (marks.length - 1)))] ?? ' '
  const percent = share * 100
  return ` ${mark}${`${percent.toFixed(percent < 9.95 ? 1 : 0)}%`.padStart(5)}`
}
