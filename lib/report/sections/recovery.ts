import { counted } from '../../counted.js'
import { seriesPlot } from '../../plots.js'
import type { ReportContents } from '../contents.js'
import type { Section } from '../html.js'

/** How the divergence from the dense model fell while the factors were trained. */
export async function recoverySection({ plan }: ReportContents): Promise<Section | undefined> {
  const recovery = plan?.recovery
  const start = recovery?.curve[0]
  if (!recovery || !start) return undefined
  const { curve, best, heldOut } = recovery
  const title = 'Divergence from the dense model while recovering'
  const seen = best.kl
    .map((kl, level) => `level ${level} from ${(start.kl[level] ?? Number.NaN).toFixed(4)} to ${kl.toFixed(4)}`)
    .join(', ')
  return {
    id: 'recovery',
    title: 'What recovery gained',
    lead: `After the cut the factors were trained towards the dense model's distribution, judged on ${counted(heldOut, 'window')} held out.`,
    figures: [
      {
        svg: await seriesPlot({
          ...{ id: 'recovery-figure', title, description: `KL in nats a token: ${seen}.` },
          x: { label: 'minutes' },
          y: { label: 'KL(dense || compressed), nats a token', type: 'log' },
          series: best.kl.map((_, level) => ({
            name: `level ${level}`,
            points: curve
              .map(({ minutes, kl }) => ({ x: minutes, y: kl[level] ?? 0 }))
              .filter(({ y }) => y > 0),
          })),
          height: 280,
        }),
        caption: `Mean KL divergence from the dense model on held-out windows, in nats a token: ${seen}.`,
        table: {
          caption: title,
          columns: ['step', 'minutes', 'tokens', ...best.kl.map((_, level) => `KL at level ${level}`)],
          rows: curve.map(({ step, minutes, tokens, kl }) => [
            step,
            minutes.toFixed(2),
            tokens,
            ...kl.map((value) => value.toFixed(4)),
          ]),
        },
      },
    ],
  }
}
