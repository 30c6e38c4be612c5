/** Rows to Markdown. */
import { captionOf, measuredWith } from './captions.js'
import { isLowRank, megabytes, methodName, modelName, whiteningName } from './names.js'
import {
  calibrationKey,
  type Interval,
  type LowRankSpec,
  type ModelSpec,
  paretoFront,
  type Row,
} from './rows.js'
import { methodRows, type SectionName, storages } from './sections.js'
import type { Settings } from './store.js'

/** Columns to the left where they hold words, to the right where they hold figures. */
export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const cell = (text: string) => text.replaceAll(/[|<]/g, (mark) => `\\${mark}`)
  const line = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`
  const figure = (text: string | undefined) => text === undefined || text === '' || /^\**-?[\d.]/.test(text)
  const rules = columns.map((_, column) => (rows.every((row) => figure(row[column])) ? '---:' : '---'))
  return [line(columns), line(rules), ...rows.map(line)].join('\n')
}

export function formatPerplexity(value: number | undefined): string {
  if (value === undefined) return ''
  return value < 1e4 ? value.toFixed(2) : value.toExponential(1).replace('e+', 'e')
}

const figures = (value: number | undefined, digits: number) => value?.toFixed(digits) ?? ''

function describe(model: ModelSpec): [method: string, whitening: string, storage: string, keep: string] {
  if (!isLowRank(model) || model.keep === 1) return [modelName(model), '', '', '']
  const { calibration, method, storage, dtype, keep } = model
  return [modelName(model), whiteningName(calibration, method), `${storage} ${dtype}`, String(keep)]
}

const seconds = (row: Row) => (row.seconds ? ((row.seconds.search ?? 0) + row.seconds.cut).toFixed(1) : '')

export function withInterval(mean: number | undefined, interval: Interval | undefined): string {
  if (mean === undefined || interval === undefined) return ''
  return `${mean.toFixed(3)} (${interval[0].toFixed(3)} to ${interval[1].toFixed(3)})`
}

const choiceColumns = ['choice', 'choice by length']

function choiceCells({ choice }: Row): string[] {
  return [
    withInterval(choice?.accuracy, choice?.intervals.accuracy),
    withInterval(choice?.accuracyNormalised, choice?.intervals.accuracyNormalised),
  ]
}

/** Leaves out the columns that no row fills. */
export function filledTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const filled = columns.flatMap((_, column) => (rows.some((row) => row[column]) ? [column] : []))
  const pick = (cells: readonly string[]) => filled.map((column) => cells[column] ?? '')
  return markdownTable(pick(columns), rows.map(pick))
}

/** Perplexity by method and keep, a half for each way of storing. */
function overview(rows: readonly Row[]): string {
  const lowRank = rows.flatMap((row) => (isLowRank(row.model) ? [{ ...row, model: row.model }] : []))
  const plain = lowRank.filter(({ model }) => model.dtype !== 'int8' && model.dtype !== 'int4')
  const keeps = [...new Set(plain.map(({ model }) => model.keep))].sort((a, b) => b - a)
  const halves = storages.flatMap((storage) => keeps.map((keep) => ({ storage, keep })))
  const lines = methodRows.map(({ method, calibration }) => {
    const key = calibrationKey(calibration)
    const mine = plain.filter(
      ({ model }) => model.method === method && calibrationKey(model.calibration) === key,
    )
    const cells = halves.map(({ storage, keep }) =>
      formatPerplexity(mine.find(({ model }) => model.storage === storage && model.keep === keep)?.perplexity),
    )
    return [methodName(method, calibration.whitening), whiteningName(calibration, method), ...cells]
  })
  const columns = ['method', 'whitening', ...halves.map(({ storage, keep }) => `${storage} ${keep}`)]
  return filledTable(
    columns,
    lines.filter((cells) => cells.slice(2).some((cell) => cell !== '')),
  )
}

function methodsTable(rows: readonly Row[]): string {
  const columns = [
    'method',
    'whitening',
    'storage',
    'keep',
    'kept',
    'perplexity',
    'MB',
    ...choiceColumns,
    'seconds',
  ]
  const lines = rows.map((row) => [
    ...describe(row.model),
    isLowRank(row.model) ? figures(row.keep, 4) : '',
    formatPerplexity(row.perplexity),
    megabytes(row.storedBytes),
    ...choiceCells(row),
    seconds(row),
  ])
  return `${overview(rows)}\n\n${filledTable(columns, lines)}`
}

const bytesName = ({ keep, dtype, drops }: LowRankSpec) =>
  `keep ${keep}, ${dtype} factors${drops ? ', channels dropped' : ''}`

function bytesTable(rows: readonly Row[]): string {
  const sorted = rows.toSorted(
    (a, b) => b.equalBytes - a.equalBytes || (b.perplexity ?? 0) - (a.perplexity ?? 0),
  )
  // Every row is made from the source: where it is of few bits itself, it would be all of the front.
  const front = paretoFront(sorted.filter(({ model }) => model.kind !== 'source'))
  const lines = sorted.map((row) => {
    const { model } = row
    const name = isLowRank(model) && model.keep < 1 ? bytesName(model) : modelName(model)
    const onFront = front.has(row) ? 'yes' : ''
    return [name, megabytes(row.equalBytes), formatPerplexity(row.perplexity), ...choiceCells(row), onFront]
  })
  return filledTable(['model', 'MB', 'perplexity', ...choiceColumns, 'on the front'], lines)
}

function levelsTable(rows: readonly Row[]): string {
  const lines = rows.flatMap((row) => {
    const [name, , , keptAs] = describe(row.model)
    if (!isLowRank(row.model) || keptAs === '') {
      const none = ['', '', '', '', '']
      return [[name, ...none, formatPerplexity(row.perplexity), megabytes(row.storedBytes)]]
    }
    const { keep, levels = [keep] } = row.model
    const measured = row.levels ?? [{ budget: row.keep, perplexity: row.perplexity }]
    return measured.map(({ budget, perplexity }, level) => [
      name,
      String(keep),
      String(levels.length),
      `${level}`,
      String(levels[level] ?? ''),
      figures(budget, 4),
      formatPerplexity(perplexity),
      level === 0 ? megabytes(row.storedBytes) : '',
    ])
  })
  return filledTable(['model', 'keep', 'levels', 'level', 'budget', 'realised', 'perplexity', 'MB'], lines)
}

function channelsTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const [name, , storage, keep] = describe(row.model)
    const kept = isLowRank(row.model) ? figures(row.keep, 4) : ''
    return [name, storage, keep, kept, formatPerplexity(row.perplexity), megabytes(row.storedBytes)]
  })
  return filledTable(['model', 'storage', 'keep', 'kept', 'perplexity', 'MB'], lines)
}

function calibrationTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const [name, , , keep] = describe(row.model)
    const source = isLowRank(row.model) ? row.model.calibration.source : ''
    const { rouge1, rouge2, rougeL, interval, dense } = row.summaries ?? {}
    return [
      ...[source, name, keep, formatPerplexity(row.perplexity), ...choiceCells(row)],
      ...[figures(rouge1, 3), figures(rouge2, 3), withInterval(rougeL, interval)],
      withInterval(dense?.rougeL, dense?.interval),
    ]
  })
  const columns = ['calibrated on', 'method', 'keep', 'perplexity', ...choiceColumns]
  return filledTable([...columns, 'ROUGE-1', 'ROUGE-2', 'ROUGE-L', 'ROUGE-L to dense'], lines)
}

function furtherTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const [name, whitening, , keep] = describe(row.model)
    const source = isLowRank(row.model) ? row.model.calibration.source : ''
    const perplexities = [row.perplexity, row.full, row.transfer].map(formatPerplexity)
    return [name, whitening, source, keep, ...perplexities]
  })
  const columns = ['method', 'whitening', 'calibrated on', 'keep', 'perplexity', 'whole text', 'dialogues']
  return filledTable(columns, lines)
}

const tables: Record<SectionName, { title: string; render: (rows: readonly Row[]) => string }> = {
  methods: { title: 'Methods', render: methodsTable },
  bytes: { title: 'Equal bytes', render: bytesTable },
  levels: { title: 'Levels', render: levelsTable },
  channels: { title: 'Channels dropped', render: channelsTable },
  calibration: { title: 'Calibration texts', render: calibrationTable },
  further: { title: 'Other texts', render: furtherTable },
}

/** One table under its title. */
export function renderSection(name: SectionName, rows: readonly Row[], settings: Settings): string {
  const { title, render } = tables[name]
  return `## ${title}\n\n${captionOf(name, rows, settings)}\n\n${render(rows)}\n`
}

export function renderHead(settings: Settings): string {
  return `# Quality of ${settings.model}\n\n${measuredWith(settings)}\n`
}
