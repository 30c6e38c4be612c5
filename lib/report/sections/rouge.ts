import { neutralStyle, seriesPlot } from '../../plots.js'
import type { ReportContents } from '../contents.js'
import type { Section } from '../html.js'

/** ROUGE-L of summaries against the mean active budget, beside what takes no model. */
export async function rougeSection({ quality }: ReportContents): Promise<Section | undefined> {
  const models = (quality?.models ?? []).flatMap((model) =>
    model.rougeL ? [{ ...model, rougeL: model.rougeL }] : [],
  )
  const budgeted = models.filter(({ rougeL }) => rougeL.meanActiveBudget !== undefined)
  if (!quality || budgeted.length === 0) return undefined
  const trivial = models.filter(({ rougeL }) => rougeL.meanActiveBudget === undefined)
  const names = [...new Set(budgeted.map((model) => nameOf(model.series, model.label)))]
  const series = names.map((name, index) => ({
    name,
    style: isDense(name) ? neutralStyle : index,
    scattered: isDense(name),
    points: budgeted
      .filter((model) => nameOf(model.series, model.label) === name)
      .map(({ rougeL: { meanActiveBudget = 1, mean, interval } }) => ({
        x: meanActiveBudget,
        y: mean,
        ...(interval ? { low: interval[0], high: interval[1] } : {}),
      }))
      .sort((a, b) => a.x - b.x),
  }))
  const best = budgeted.reduce((most, one) => (one.rougeL.mean > most.rougeL.mean ? one : most))
  const bar = trivial.reduce((most, { rougeL }) => Math.max(most, rougeL.mean), 0)
  const beaten =
    bar > 0
      ? ` The best model row has ${best.rougeL.mean.toFixed(3)}, the best row without a model ${bar.toFixed(3)}.`
      : ''
  const title = 'ROUGE-L against mean active budget'
  return {
    id: 'rouge',
    title: 'Summaries against what is read',
    lead:
      "ROUGE-L measures how much of people's summaries of dialogues the model's share, from 0 to 1: higher is better. " +
      'Where rows that take no model score higher, the measure says little of this model.',
    figures: [
      {
        svg: await seriesPlot({
          ...{ id: 'rouge-figure', title, description: `Higher is better.${beaten}` },
          x: { label: 'mean active budget' },
          y: { label: 'ROUGE-L' },
          names: 'top',
          series,
          references: trivial.map(({ label, rougeL }) => ({ name: label, y: rougeL.mean })),
          height: 300,
        }),
        caption: `ROUGE-L of generated summaries, with 95% intervals, against the mean share of dense block parameters read per token.${beaten}`,
        table: {
          caption: title,
          columns: ['model', 'variant', 'mean active budget', 'ROUGE-L', 'low', 'high'],
          rows: models.map(({ series: name, label, rougeL: { mean, interval, meanActiveBudget } }) => [
            name,
            label,
            meanActiveBudget?.toFixed(3),
            mean.toFixed(3),
            interval?.[0].toFixed(3),
            interval?.[1].toFixed(3),
          ]),
        },
      },
    ],
  }
}

function isDense(name: string): boolean {
  return name.startsWith('dense')
}

/** Calibration texts make more of a difference to summaries than to be one line. */
function nameOf(series: string, label: string): string {
  const text = /, on (.+)$/.exec(label)?.[1]
  return text === undefined || text === 'text' ? series : `${series}, calibrated on ${text}`
}
