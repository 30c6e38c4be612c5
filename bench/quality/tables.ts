/** Rows to Markdown. */
import type { Method, Whitening } from './library.js'
import { type CalibrationSpec, type LowRankSpec, type ModelSpec, paretoFront, type Row } from './rows.js'
import { methodRows, type SectionName, storages } from './sections.js'
import type { Settings } from './store.js'

/** Columns to the left where they hold words, to the right where they hold figures. */
export function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const cell = (text: string) => text.replaceAll('|', '\\|')
  const line = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`
  const figure = (text: string | undefined) => text === undefined || text === '' || /^\**[\d.]/.test(text)
  const rules = columns.map((_, column) => (rows.every((row) => figure(row[column])) ? '---:' : '---'))
  return [line(columns), line(rules), ...rows.map(line)].join('\n')
}

export function formatPerplexity(value: number | undefined): string {
  if (value === undefined) return ''
  return value < 1e4 ? value.toFixed(2) : value.toExponential(1).replace('e+', 'e')
}

/** Megabytes to a tenth, or to the thousandth below ten of them. */
function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 3 : 1)
}

const figures = (value: number | undefined, digits: number) => value?.toFixed(digits) ?? ''

const whiteningNames: Record<Whitening, string> = {
  none: 'none',
  scaled: 'scaled by activations',
  input: 'input',
  'two-sided': 'two-sided',
}

const isLowRank = (model: ModelSpec): model is LowRankSpec => model.kind === 'low-rank'

function methodName(method: Method, whitening: Whitening): string {
  if (method !== 'uniform') return method
  return { none: 'uniform (plain SVD)', scaled: method, input: 'uniform (SVD-LLM)', 'two-sided': method }[
    whitening
  ]
}

/** With the labels, where something of the row comes from gradients. */
function whiteningName({ whitening, labels }: CalibrationSpec, method: Method): string {
  const gradients = whitening === 'two-sided' || method === 'fisher' || method === 'curve'
  return gradients ? `${whiteningNames[whitening]}, labels ${labels}` : whiteningNames[whitening]
}

function modelName(model: ModelSpec): string {
  switch (model.kind) {
    case 'dense':
      return `dense ${model.dtype}`
    case 'source':
      return 'dense, the source file'
    case 'rounded':
      return model.blockBits === undefined ? 'dense, only embedding int8' : `dense, ${model.blockBits} bits`
    case 'low-rank':
      return methodName(model.method, model.calibration.whitening)
  }
}

function describe(model: ModelSpec): [method: string, whitening: string, storage: string, keep: string] {
  if (!isLowRank(model)) return [modelName(model), '', '', '']
  const { calibration, method, storage, dtype, keep } = model
  return [modelName(model), whiteningName(calibration, method), `${storage} ${dtype}`, String(keep)]
}

const seconds = (row: Row) => (row.seconds ? ((row.seconds.search ?? 0) + row.seconds.cut).toFixed(1) : '')

const accuracy = ({ choice }: Row) =>
  choice ? `${figures(choice.accuracy, 3)} / ${figures(choice.accuracyNormalised, 3)}` : ''

/** Leaves out the columns that no row fills. */
function filledTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
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
  const lines = methodRows.map(({ method, whitening, labels }) => {
    const mine = plain.filter(
      ({ model }) =>
        model.method === method &&
        model.calibration.whitening === whitening &&
        model.calibration.labels === labels,
    )
    const cells = halves.map(({ storage, keep }) =>
      formatPerplexity(mine.find(({ model }) => model.storage === storage && model.keep === keep)?.perplexity),
    )
    const name = methodName(method, whitening)
    return [name, whiteningName({ source: 'text', whitening, labels }, method), ...cells]
  })
  const columns = ['method', 'whitening', ...halves.map(({ storage, keep }) => `${storage} ${keep}`)]
  return filledTable(
    columns,
    lines.filter((cells) => cells.slice(2).some((cell) => cell !== '')),
  )
}

function methodsTable(rows: readonly Row[]): string {
  const columns = ['method', 'whitening', 'storage', 'keep', 'kept', 'perplexity', 'MB', 'choice', 'seconds']
  const lines = rows.map((row) => [
    ...describe(row.model),
    isLowRank(row.model) ? figures(row.keep, 4) : '',
    formatPerplexity(row.perplexity),
    megabytes(row.storedBytes),
    accuracy(row),
    seconds(row),
  ])
  return `${overview(rows)}\n\n${filledTable(columns, lines)}`
}

function bytesTable(rows: readonly Row[]): string {
  const sorted = rows.toSorted(
    (a, b) => b.equalBytes - a.equalBytes || (b.perplexity ?? 0) - (a.perplexity ?? 0),
  )
  // Every row is made from the source: where it is of few bits itself, it would be all of the front.
  const front = paretoFront(sorted.filter(({ model }) => model.kind !== 'source'))
  const lines = sorted.map((row) => {
    const factors = isLowRank(row.model)
      ? `keep ${row.model.keep}, ${row.model.dtype} factors`
      : modelName(row.model)
    const onFront = front.has(row) ? 'yes' : ''
    return [factors, megabytes(row.equalBytes), formatPerplexity(row.perplexity), accuracy(row), onFront]
  })
  return filledTable(['model', 'MB', 'perplexity', 'choice', 'on the front'], lines)
}

function levelsTable(rows: readonly Row[]): string {
  const lines = rows.flatMap((row) => {
    if (!isLowRank(row.model)) return []
    const { keep, levels = [keep] } = row.model
    const measured = row.levels ?? [{ budget: row.keep, perplexity: row.perplexity }]
    return measured.map(({ budget, perplexity }, level) => [
      String(keep),
      String(levels.length),
      `${level}`,
      String(levels[level] ?? ''),
      figures(budget, 4),
      formatPerplexity(perplexity),
      level === 0 ? megabytes(row.storedBytes) : '',
    ])
  })
  return filledTable(['keep', 'levels', 'level', 'budget', 'realised', 'perplexity', 'MB'], lines)
}

function calibrationTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const [name, , , keep] = describe(row.model)
    const source = isLowRank(row.model) ? row.model.calibration.source : ''
    const { rouge1, rouge2, rougeL } = row.summaries ?? {}
    const rouge = [rouge1, rouge2, rougeL].map((value) => figures(value, 4))
    return [source, name, keep, formatPerplexity(row.perplexity), accuracy(row), ...rouge]
  })
  const columns = ['calibrated on', 'method', 'keep', 'perplexity', 'choice', 'ROUGE-1', 'ROUGE-2', 'ROUGE-L']
  return filledTable(columns, lines)
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
  calibration: { title: 'Calibration texts', render: calibrationTable },
  further: { title: 'Other texts', render: furtherTable },
}

/** What the figures of all tables were made with. */
function measuredWith(settings: Settings): string {
  const { model, weights, dtype, calibration, samples, seqLen, text, windows, cores, instructionSet } = settings
  return (
    `${model} (weights in ${weights}), held in ${dtype}; calibrated on the first ${samples} windows of ${seqLen} ` +
    `tokens of ${calibration}; perplexity of the first ${windows} windows of ${seqLen} tokens of ${text}. ` +
    `flrc ${settings.flrc}, ${cores} cores, ${instructionSet}.`
  )
}

function captionOf(name: SectionName, rows: readonly Row[], settings: Settings): string {
  switch (name) {
    case 'methods':
      return methodsCaption(rows, settings)
    case 'bytes':
      return bytesCaption(rows, settings)
    case 'levels':
      return (
        'The default method with one, two and four levels, each measured at every level. Further levels cost ' +
        'level 0 something: what stays dense and how blocks are cut is decided for all of them together.'
      )
    case 'calibration':
      return calibrationCaption(settings)
    case 'further':
      return furtherCaption(settings)
  }
}

function methodsCaption(rows: readonly Row[], { searchWindows, seqLen, choices }: Settings): string {
  const parts = [
    'One level, the same calibration windows and the same budget for every method; each is allocated for the ' +
      'storage it is shown in. MB: all tensors as stored. Seconds: allocating and cutting, given the calibration.',
  ]
  if (rows.some(({ model }) => isLowRank(model) && model.method === 'asvd')) {
    parts.push(
      `ASVD's seconds hold its sensitivity search, which saw only ${searchWindows} windows of ${seqLen} tokens.`,
    )
  }
  if (choices !== undefined) parts.push(`Choice: accuracy on ${choices}, raw / normalised by length.`)
  const calibrations = new Map<string, number>()
  for (const { model, seconds: spent } of rows) {
    if (!isLowRank(model) || !spent) continue
    const { whitening, labels } = model.calibration
    calibrations.set(`${whiteningNames[whitening]} (labels ${labels})`, spent.calibrate)
  }
  const spent = [...calibrations].map(([name, value]) => `${name}: ${value.toFixed(0)} s`).join('; ')
  if (spent !== '') parts.push(`Calibrating took, by whitening: ${spent}.`)
  return parts.join(' ')
}

function bytesCaption(rows: readonly Row[], settings: Settings): string {
  const parts = [
    'Low rank is the default (curve, two-sided, pivoted, one level). Embedding and output head count as int8 in ' +
      'every row; rows that are not quantised hold them wider, and the row that rounds nothing but them shows what ' +
      'that is worth. 3 and 2 bits: plain rounding in groups of 32 with scale and zero point, as int4. A row is on ' +
      'the front if no other is both as small and as good.',
  ]
  const source = rows.find(({ model }) => model.kind === 'source')
  if (source !== undefined) {
    parts.push(
      `The source file holds its projections in ${settings.weights}: the dense rows start from that grid, so the ` +
        `row of few bits that nothing is lost in is the source itself, with ${megabytes(source.equalBytes)} MB, and ` +
        'int4 is a second rounding, on another grid. The front leaves the source out.',
    )
  }
  return parts.join(' ')
}

function calibrationCaption({ summaries, summaryLimit, dialogues }: Settings): string {
  const parts = ['Two-sided whitening, pivoted, one level.']
  if (dialogues !== undefined) {
    parts.push(
      `Dialogues: ${dialogues} in the model's chat template; half: as many windows of them as of the text.`,
    )
  }
  parts.push('Self: what the model itself wrote, plain and in its chat template.')
  if (summaries !== undefined)
    parts.push(`ROUGE of summaries of the first ${summaryLimit} samples of ${summaries}.`)
  return parts.join(' ')
}

function furtherCaption({ transfer, text }: Settings): string {
  const parts = [
    'Pivoted, one level.',
    `Whole text: all of ${text} in windows of 2048, or the model's context.`,
  ]
  if (transfer !== undefined) parts.push(`Dialogues: perplexity of those of ${transfer}, as plain text.`)
  return parts.join(' ')
}

/** One table under its title. */
export function renderSection(name: SectionName, rows: readonly Row[], settings: Settings): string {
  const { title, render } = tables[name]
  return `## ${title}\n\n${captionOf(name, rows, settings)}\n\n${render(rows)}\n`
}

export function renderHead(settings: Settings): string {
  return `# Quality of ${settings.model}\n\n${measuredWith(settings)}\n`
}
