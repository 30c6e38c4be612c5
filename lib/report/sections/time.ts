import { barsPlot } from '../../plots.js'
import type { ReportContents } from '../contents.js'
import type { Section } from '../html.js'

const stages: Record<string, string> = {
  channels: 'choose and drop channels',
  calibrate: 'calibrate (forward, backward, scores, moments)',
  curves: 'truncation curves',
  factorize: 'factorise',
  allocate: 'share the rank out',
  solve: 'look for the keep',
  measure: 'measure perplexity',
  recover: 'recover',
}

/** Where the time of the compression went. */
export async function timeSection({ run }: ReportContents): Promise<Section | undefined> {
  const spent = Object.entries(stages)
    .map(([key, name]) => ({ name, value: run?.seconds[key] ?? 0 }))
    .filter(({ value }) => value > 0)
    .sort((a, b) => b.value - a.value)
  const longest = spent[0]
  if (!run || !longest) return undefined
  const total = spent.reduce((sum, { value }) => sum + value, 0)
  const seen = `The longest stage took ${((longest.value / total) * 100).toFixed(0)}% of the time: ${longest.name}.`
  const title = 'Seconds by stage'
  return {
    id: 'time',
    title: 'Where the time went',
    lead:
      `Compressing took ${seconds(total)} on ${run.threads} threads, not counting loading and saving; the process ` +
      `held at most ${(run.peakBytes / 1e9).toPrecision(3)} GB while calibrating.`,
    figures: [
      {
        svg: await barsPlot({
          ...{ id: 'time-figure', title, description: seen },
          bars: spent.map((bar) => ({ ...bar, text: seconds(bar.value) })),
        }),
        caption: `Wall-clock seconds of each stage of the compression. ${seen}`,
        table: {
          caption: title,
          columns: ['stage', 'seconds', 'share'],
          rows: spent.map(({ name, value }) => [
            name,
            value.toFixed(2),
            `${((value / total) * 100).toFixed(1)}%`,
          ]),
        },
      },
    ],
  }
}

function seconds(value: number): string {
  return value < 120 ? `${value.toPrecision(value < 1 ? 2 : 3)} s` : `${(value / 60).toFixed(1)} min`
}
