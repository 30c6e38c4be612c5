/** Rows to Markdown. */
import { isLowRank, megabytes } from '../quality/names.js'
import type { Settings } from '../quality/store.js'
import { filledTable, withInterval } from '../quality/tables.js'
import type { Row, SpeedRow } from './rows.js'
import { differenceOf, type Figures, figuresOf, type Measure } from './scores.js'

/** A row with the means and intervals of its scores. */
export interface MeasuredRow extends Row {
  figures: Figures
}

export function measured(row: Row): MeasuredRow {
  return { ...row, figures: row.scores === undefined ? {} : figuresOf(row.scores) }
}

export function renderHead(settings: Settings): string {
  const { model, weights, dtype, calibration, calibratedOn, samples, seqLen, prompts, maxTokens, dev } =
    settings
  const fitted = dev === undefined ? '' : `; schedules are fitted on the first ${settings.devLimit} of ${dev}`
  return (
    `# Progressive decoding of ${model}\n\n` +
    `Weights in ${weights}, held in ${dtype}; calibrated on ${samples} windows of ${seqLen} tokens (${calibratedOn}, ` +
    `${calibration})${fitted}; agreement and KL along the dense model's greedy tokens, at most ${maxTokens} after each ` +
    `of the first n prompts of ${prompts}. flrc ${settings.flrc}, ${settings.cores} cores, ${settings.instructionSet}.\n`
  )
}

const megabytesOf = (bytes: number | undefined) => (bytes ? megabytes(bytes) : '')

const qualityColumns = [
  ...['n, along', 'KL', 'agreement', 'n, written', "ROUGE-L, dense model's"],
  ...['ROUGE-1', 'ROUGE-2', 'ROUGE-L'].map((name) => `${name}, people's`),
]

function qualityCells({ quality, summaries }: Figures): string[] {
  return [
    String(quality?.samples ?? ''),
    withInterval(quality?.meanKl, quality?.intervals.meanKl),
    withInterval(quality?.agreement, quality?.intervals.agreement),
    String(summaries?.samples ?? ''),
    withInterval(summaries?.dense?.rougeL, summaries?.dense?.interval),
    summaries?.rouge1.toFixed(3) ?? '',
    summaries?.rouge2.toFixed(3) ?? '',
    withInterval(summaries?.rougeL, summaries?.interval),
  ]
}

/** Quality of all rows, those of one budget together. */
export function renderQuality(rows: readonly MeasuredRow[]): string {
  const lines = rows.map(({ name, budget, schedule, storedBytes, prefillBytes, figures }) => {
    const { quality, summaries } = figures
    return [
      ...[name, budget?.toString() ?? '', schedule],
      ...[storedBytes, prefillBytes, summaries?.spent?.bytes].map(megabytesOf),
      ...[summaries?.spent?.budget, quality?.meanActiveBudget].map((value) => value?.toFixed(4) ?? ''),
      ...qualityCells(figures),
    ]
  })
  const columns = ['row', 'wanted', 'schedule', 'MB stored', 'MB prefill', 'MB a token']
  return (
    '## Quality\n\n' +
    'Wanted: the mean active budget that a row was made for. Budget, written: what it was over the tokens that the row ' +
    "wrote itself; along: over the dense model's tokens, which KL and agreement are taken along. The prompt is read at " +
    'level 0, and the first token comes from it. MB prefill and a token: weights that one pass reads, output head ' +
    'included. Means with intervals of 95%.\n\n' +
    `${filledTable([...columns, 'budget, written', 'along', ...qualityColumns], lines)}\n`
  )
}

/** The same rows by what is stored, where one level and several stand beside each other. */
export function renderStored(rows: readonly MeasuredRow[]): string {
  const whole = rows.filter(
    ({ model, from, above }) => isLowRank(model) && from === undefined && above === undefined,
  )
  const keepOf = ({ model }: MeasuredRow) => (isLowRank(model) ? model.keep : 1)
  const hasLevels = ({ model }: MeasuredRow) => isLowRank(model) && model.levels !== undefined
  const keeps = [...new Set(whole.map(keepOf))].filter((keep) => {
    const own = whole.filter((row) => keepOf(row) === keep)
    return own.some(hasLevels) && !own.every(hasLevels)
  })
  if (keeps.length === 0) return ''
  const dense = rows.filter(({ model }) => model.kind === 'dense' || (isLowRank(model) && model.keep === 1))
  const line = (row: MeasuredRow, keep: string) => {
    const { name, schedule, storedBytes, figures } = row
    const { spent } = figures.summaries ?? {}
    const budget = spent?.budget ?? figures.quality?.meanActiveBudget
    const read = [megabytesOf(storedBytes), budget?.toFixed(4) ?? '', megabytesOf(spent?.bytes)]
    return [keep, name, schedule, ...read, ...qualityCells(figures)]
  }
  const lines = keeps
    .sort((a, b) => b - a)
    .flatMap((keep) =>
      whole
        .filter((row) => keepOf(row) === keep)
        .toSorted((a, b) => Number(hasLevels(a)) - Number(hasLevels(b)))
        .map((row) => line(row, String(keep))),
    )
  const columns = ['stored', 'row', 'schedule', 'MB stored', 'budget', 'MB a token', ...qualityColumns]
  return (
    '## Equal stored bytes\n\n' +
    'Stored: block parameters stored / dense ones. Models of several levels store what models of one do, and read less of ' +
    'it for later tokens.\n\n' +
    `${filledTable(columns, [...dense.map((row) => line(row, '')), ...lines])}\n`
  )
}

const isEarlier = ({ model }: MeasuredRow) => isLowRank(model) && model.method !== 'curve'
/** One level throughout, allocated for the budget. */
const isStatic = ({ model, budget, above }: MeasuredRow) =>
  isLowRank(model) && model.levels === undefined && budget !== undefined && above === undefined

/** Differences at one budget, by the same samples. */
export function renderDifferences(rows: readonly MeasuredRow[]): string {
  const lines = [...new Set(rows.map(({ budget }) => budget))].flatMap((budget) => {
    const own = rows.filter((row) => row.budget === budget)
    const one = best(own.filter(isStatic))
    const earlier = best(own.filter(isEarlier))
    if (budget === undefined || one === undefined) return []
    return own
      .filter((row) => row !== one && row !== earlier && !isEarlier(row))
      .map((row) => [row.name, String(budget), ...differenceCells(row, one), ...gainCells(row, earlier)])
      .concat([[one.name, String(budget), ...measures.map(() => ''), one.name, ...gainCells(one, earlier)]])
  })
  if (lines.length === 0) return ''
  const against = ['against', 'over the best earlier method, %', 'which is']
  return (
    '## Differences\n\n' +
    'To the best model of a single level at the same budget, and over the best of the earlier methods (uniform, ASVD, ' +
    "spectrum, FLRC's Fisher allocation), both chosen by ROUGE-L against the dense model's summaries (by KL where there " +
    'are none). Paired over the samples that both have, with bootstrap intervals of 95%; KL is better where it is ' +
    "lower. The gain is in ROUGE-L against the dense model's summaries, in percent of the earlier method's mean.\n\n" +
    `${filledTable(['row', 'wanted', ...measures.map(({ title }) => title), ...against], lines)}\n`
  )
}

const measures: readonly { measure: Measure; title: string }[] = [
  { measure: 'dense', title: "ROUGE-L, dense model's" },
  { measure: 'people', title: "ROUGE-L, people's" },
  { measure: 'kl', title: 'KL' },
  { measure: 'agreement', title: 'agreement' },
]

function best(rows: readonly MeasuredRow[]): MeasuredRow | undefined {
  const loss = ({ figures: { quality, summaries } }: MeasuredRow) =>
    summaries?.dense === undefined ? (quality?.meanKl ?? Number.POSITIVE_INFINITY) : -summaries.dense.rougeL
  return rows.toSorted((a, b) => loss(a) - loss(b))[0]
}

function differenceCells(row: MeasuredRow, base: MeasuredRow): string[] {
  const cells = measures.map(({ measure }) => {
    const found = row.scores && base.scores && differenceOf(measure, row.scores, base.scores)
    return withInterval(found?.mean, found?.interval)
  })
  return [...cells, base.name]
}

function gainCells(row: MeasuredRow, earlier: MeasuredRow | undefined): string[] {
  const found = row.scores && earlier?.scores && differenceOf('dense', row.scores, earlier.scores)
  if (found === undefined || earlier === undefined || found.base === 0) return ['', '']
  const [mean, low, high] = [found.mean, ...found.interval].map((value) =>
    ((100 * value) / found.base).toFixed(1),
  )
  return [`${mean} (${low} to ${high})`, earlier.name]
}

/** KL and agreement by step, averaged over stretches. */
export function renderSteps(rows: readonly MeasuredRow[]): string {
  const stepTable = (figure: 'kl' | 'agreement') => {
    const own = rows.filter(({ figures }) => figures.quality !== undefined)
    const steps = Math.max(0, ...own.map(({ figures }) => figures.quality?.byStep.length ?? 0))
    const stretches = stretchesOf(steps)
    const lines = own.map(({ name, budget, figures }) => [
      name,
      budget?.toString() ?? '',
      ...stretches.map(([from, to]) => {
        const at = figures.quality?.byStep.slice(from, to) ?? []
        const samples = at.reduce((sum, step) => sum + step.samples, 0)
        return samples > 0
          ? (at.reduce((sum, step) => sum + step[figure] * step.samples, 0) / samples).toFixed(4)
          : ''
      }),
    ])
    return filledTable(['row', 'wanted', ...stretches.map(([from, to]) => `steps ${from} to ${to - 1}`)], lines)
  }
  return `## KL by step\n\n${stepTable('kl')}\n\n## Agreement by step\n\n${stepTable('agreement')}\n`
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
