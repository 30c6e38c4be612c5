import { scoreKindOf } from '../../checkpoint/read-plan.js'
import { projectionKinds } from '../../format/projections.js'
import { scoresPlot } from '../../plots.js'
import { byLayer, type ReportContents } from '../contents.js'
import { percent, type Section } from '../html.js'

/** What each kind of score adds up. */
const summands: Record<string, string> = {
  fisher: 'the square of each weight times its gradient',
  gradient: "the square of each weight's gradient",
  taylor: 'the size of each weight times its gradient',
}

/** Importance of every projection over the layers, as in Figure 2 of the paper. */
export async function scoresSection({ projections, plan }: ReportContents): Promise<Section | undefined> {
  const scored = projections.filter(({ score = 0 }) => score > 0)
  if (scored.length === 0) return undefined
  const total = scored.reduce((sum, { score = 0 }) => sum + score, 0)
  const largest = scored.reduce((best, one) => ((one.score ?? 0) > (best.score ?? 0) ? one : best))
  const share = (score = 0) => score / (largest.score ?? 1)
  const sums = projectionKinds.map((kind) => ({
    kind,
    sum: scored.reduce((sum, { kind: of, score = 0 }) => sum + (of === kind ? score : 0), 0),
  }))
  const first = sums.reduce((best, one) => (one.sum > best.sum ? one : best))
  const seen =
    `The largest score is that of ${largest.kind} in layer ${largest.layer}; over all layers ${first.kind} holds ` +
    `${percent(first.sum / total)} of the sum.`
  const scoreKind = plan ? scoreKindOf(plan) : 'fisher'
  const title = 'Importance score by layer and projection'
  return {
    id: 'scores',
    title: 'Which projections matter',
    lead:
      `The score adds up, over the calibration windows, ${summands[scoreKind] ?? scoreKind}: how much the loss notices that a ` +
      `projection is disturbed.${scoreKind === 'fisher' ? ' This is the counterpart of Figure 2 of the FLRC paper, in our reading.' : ''}`,
    figures: [
      {
        svg: await scoresPlot({ id: 'scores-figure', title, description: seen }, projections),
        caption: `Score of each projection as a share of the largest, on a logarithmic scale, over the layers. ${seen}`,
        table: {
          caption: `${title}, in per cent of the largest (score: ${scoreKind})`,
          columns: ['layer', ...projectionKinds],
          rows: byLayer(projections, ({ score }) => (share(score) * 100).toPrecision(3)),
        },
      },
    ],
  }
}
