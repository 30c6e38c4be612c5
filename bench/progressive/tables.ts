/** Rows to Markdown. */
import { megabytes } from '../quality/names.js'
import type { Settings } from '../quality/store.js'
import { filledTable, withInterval } from '../quality/tables.js'
import type { Row, SpeedRow } from './rows.js'

export function renderHead(settings: Settings): string {
  const { model, weights, dtype, calibration, calibratedOn, samples, seqLen, prompts, limit, maxTokens } =
    settings
  return (
    `# Progressive decoding of ${model}\n\n` +
    `Weights in ${weights}, held in ${dtype}; calibrated on ${samples} windows of ${seqLen} tokens (${calibratedOn}, ` +
    `${calibration}); agreement and KL along the dense model's greedy tokens, at most ${maxTokens} after each of the ` +
    `first ${limit} prompts of ${prompts}. flrc ${settings.flrc}, ${settings.cores} cores, ${settings.instructionSet}.\n`
  )
}

/** Quality of all rows, those of one budget together. */
export function renderQuality(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const { quality, summaries } = row
    return [
      row.name,
      row.budget?.toString() ?? '',
      row.schedule,
      row.storedBytes > 0 ? megabytes(row.storedBytes) : '',
      quality?.meanActiveBudget.toFixed(4) ?? '',
      withInterval(quality?.meanKl, quality?.intervals.meanKl),
      withInterval(quality?.agreement, quality?.intervals.agreement),
      withInterval(summaries?.dense?.rougeL, summaries?.dense?.interval),
      withInterval(summaries?.rougeL, summaries?.interval),
    ]
  })
  const columns = ['row', 'wanted', 'schedule', 'MB', 'budget', 'KL', 'agreement']
  const rouge = ["ROUGE-L, dense model's", "ROUGE-L, people's"]
  return (
    '## Quality\n\n' +
    'Wanted: the mean active budget that a row was made for; budget: what it was over the tokens compared. The prompt ' +
    'is read at level 0, and the first token comes from it. Means with intervals of 95%.\n\n' +
    `${filledTable([...columns, ...rouge], lines)}\n`
  )
}

/** KL by step, of the rows of one budget, averaged over stretches. */
export function renderSteps(rows: readonly Row[]): string {
  const measured = rows.filter(({ quality }) => quality !== undefined)
  const steps = Math.max(0, ...measured.map(({ quality }) => quality?.byStep.length ?? 0))
  const stretches = stretchesOf(steps)
  const lines = measured.map(({ name, budget, quality }) => [
    name,
    budget?.toString() ?? '',
    ...stretches.map(([from, to]) => {
      const at = quality?.byStep.slice(from, to) ?? []
      const samples = at.reduce((sum, step) => sum + step.samples, 0)
      return samples > 0 ? (at.reduce((sum, step) => sum + step.kl * step.samples, 0) / samples).toFixed(4) : ''
    }),
  ])
  const columns = ['row', 'wanted', ...stretches.map(([from, to]) => `steps ${from} to ${to - 1}`)]
  return `## KL by step\n\n${filledTable(columns, lines)}\n`
}

/** Step 0, then stretches that double in length: 1 to 2, 3 to 6, 7 to 14, ... */
function stretchesOf(steps: number): [number, number][] {
  const stretches: [number, number][] = []
  for (let from = 0; from < steps; from = 2 * from + 1) stretches.push([from, Math.min(steps, 2 * from + 1)])
  return stretches
}

export function renderSpeeds(rows: readonly Row[]): string {
  const lines = rows.flatMap(({ name, budget, schedule, speeds = [] }) =>
    speeds.map((speed) => [name, budget?.toString() ?? '', schedule, ...speedCells(speed)]),
  )
  if (lines.length === 0) return ''
  const columns = ['row', 'wanted', 'schedule', 'prompt', 'tokens', 'tokens/s', 'spread', 'by bytes', 'share']
  return (
    '## Speed\n\n' +
    'Rounds over all rows in turn; medians and the slowest and fastest round. By bytes: tokens a second at which what ' +
    'a token reads (weights of its level, lm_head in full, cache) would take all of the measured bandwidth; share: how ' +
    'much of the bandwidth was used.\n\n' +
    `${filledTable([...columns, 'MB a token', 'budget', 'first token, ms'], lines)}\n`
  )
}

function speedCells(speed: SpeedRow): string[] {
  return [
    String(speed.promptTokens),
    String(speed.tokens),
    speed.tokensPerSecond.toFixed(1),
    speed.spread.map((value) => value.toFixed(1)).join(' to '),
    speed.ceiling.toFixed(1),
    speed.bandwidthShare.toFixed(2),
    megabytes(speed.bytesPerToken),
    speed.meanActiveBudget.toFixed(4),
    speed.timeToFirstTokenMs.toFixed(1),
  ]
}
