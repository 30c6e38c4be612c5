import { projectionKinds } from '../../format/projections.js'
import { type PanelLine, panelsPlot } from '../../plots.js'
import type { ReportContents, ReportedProjection } from '../contents.js'
import type { Section } from '../html.js'

/** Points of a curve that are drawn, and decades of loss; what adds less is left out. */
const mostPoints = 40
const decades = 6
const tableShares = [0.25, 0.5, 0.75]

/** E(r) of every projection: the loss that cutting it to rank r is estimated to add. */
export async function curvesSection({ plan, projections }: ReportContents): Promise<Section | undefined> {
  const calibration = plan?.calibration
  if (!plan || !calibration || Object.keys(plan.curves).length === 0) return undefined
  // Every window's first token is predicted by nothing.
  const tokens = calibration.tokens - calibration.windows
  const layers = Math.max(...projections.map(({ layer }) => layer))
  const lossAt = (name: string, rank: number) => (plan.curves[name]?.[rank] ?? 0) / tokens
  const line = ({ name, layer, rows, cols, ranks }: ReportedProjection) => {
    const curve = plan.curves[name] ?? []
    const full = Math.min(rows, cols)
    const points = thinned(curve.length).map((rank) => ({ x: rank / full, y: lossAt(name, rank) }))
    const rank = ranks[0]
    const loss = typeof rank === 'number' ? lossAt(name, rank) : 0
    return {
      order: layers > 0 ? layer / layers : 1,
      points: points.filter(({ y }) => y > 0),
      ...(typeof rank === 'number' && loss > 0 ? { chosen: { x: rank / full, y: loss } } : {}),
    }
  }
  const panels = projectionKinds.map((kind) => ({
    name: kind,
    lines: projections.filter((projection) => projection.kind === kind).map(line),
  }))
  const most = Math.max(
    ...panels.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map(({ y }) => y))),
  )
  if (!(most > 0)) return undefined
  const bottom = (most * 1.3) / 10 ** decades
  const added = projections.reduce(
    (sum, { name, ranks: [rank] }) => sum + (typeof rank === 'number' ? lossAt(name, rank) : 0),
    0,
  )
  const seen = `At the ranks chosen for level 0 all projections together are estimated to add ${added.toPrecision(3)} nats a token.`
  const mean = (kind: string, share: number) => {
    const mine = projections.filter((projection) => projection.kind === kind)
    const losses = mine.map(({ name, rows, cols }) => lossAt(name, Math.round(share * Math.min(rows, cols))))
    return (losses.reduce((sum, loss) => sum + loss, 0) / losses.length).toExponential(2)
  }
  const sumAtRanks = (kind: string) =>
    projections
      .filter((projection) => projection.kind === kind)
      .reduce((sum, { name, ranks: [rank] }) => sum + (typeof rank === 'number' ? lossAt(name, rank) : 0), 0)
      .toExponential(2)
  return {
    id: 'curves',
    title: 'What each rank is worth',
    lead:
      'One pass over the calibration text estimates, for every projection and every rank at once, the loss that ' +
      'cutting it there would add. Budgets are shared out along these curves.',
    figures: [
      {
        svg: await panelsPlot({
          ...{ id: 'curves-figure', title: 'Truncation curves', description: seen },
          panels: panels.map(({ name, lines }) => ({ name, lines: lines.map((one) => above(one, bottom)) })),
          x: { label: 'rank / full rank', domain: [0, 1], ticks: [0, 0.5, 1] },
          y: {
            label: 'loss added, nats a token',
            type: 'log',
            domain: [bottom, most * 1.3],
          },
        }),
        ramp: { from: 'first layer', to: 'last layer' },
        caption:
          'Estimated loss added (nats a token, logarithmic scale) against rank as a share of full rank, a panel for ' +
          `each kind of projection and a line for each layer; dots mark the ranks chosen for level 0. ${seen}`,
        table: {
          caption:
            'Estimated loss added, nats a token: mean over the layers at shares of full rank, and sum at the chosen ranks',
          columns: [
            'projection',
            ...tableShares.map((share) => `at ${share * 100}% of the rank`),
            'at the chosen ranks',
          ],
          rows: projectionKinds.map((kind) => [
            kind,
            ...tableShares.map((share) => mean(kind, share)),
            sumAtRanks(kind),
          ]),
        },
      },
    ],
  }
}

function above({ chosen, points, ...line }: PanelLine, bottom: number): PanelLine {
  const shown = chosen && chosen.y >= bottom ? { chosen } : {}
  return { ...line, ...shown, points: points.filter(({ y }) => y >= bottom) }
}

/** Indices below `length`, evenly spread, the first and the last among them. */
function thinned(length: number): number[] {
  const count = Math.min(length, mostPoints)
  return Array.from({ length: count }, (_, index) =>
    Math.round((index * (length - 1)) / Math.max(1, count - 1)),
  )
}
