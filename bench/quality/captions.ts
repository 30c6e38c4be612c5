/** What a reader must know of a table's figures. */
import { isLowRank, megabytes, whiteningNames } from './names.js'
import type { Row } from './rows.js'
import type { SectionName } from './sections.js'
import type { Settings } from './store.js'

/** What the figures of all tables were made with. */
export function measuredWith(settings: Settings): string {
  const { model, weights, dtype, calibration, samples, seqLen, textWindows } = settings
  const { text, windows, cores, instructionSet } = settings
  return (
    `${model} (weights in ${weights}), held in ${dtype}; calibrated on ${samples} windows of ${seqLen} ` +
    `tokens of ${calibration}, ${textWindows}; perplexity of the first ${windows} windows of ${seqLen} tokens of ${text}. ` +
    `flrc ${settings.flrc}, ${cores} cores, ${instructionSet}.`
  )
}

export function captionOf(name: SectionName, rows: readonly Row[], settings: Settings): string {
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
    case 'channels':
      return (
        'The default method, and the same after channels of the MLPs were dropped (`dropChannels: auto`), from the ' +
        'same windows and at the same number of stored parameters. A model without some of its channels is calibrated ' +
        'for itself.'
      )
    case 'calibration':
      return calibrationCaption(settings)
    case 'further':
      return furtherCaption(rows, settings)
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
  if (choices !== undefined) {
    parts.push(
      `Choice: accuracy on ${choices}, by log-likelihood and by log-likelihood per character, of one keep; intervals of 95%.`,
    )
  }
  const calibrations = new Map<string, number>()
  for (const { model, seconds: spent } of rows) {
    if (!isLowRank(model) || !spent) continue
    const { whitening, labels, shrunk } = model.calibration
    const name = `${whiteningNames[whitening]} (labels ${labels}${shrunk ? ', shrunk' : ''})`
    calibrations.set(name, spent.calibrate)
  }
  const spent = [...calibrations].map(([name, value]) => `${name}: ${value.toFixed(0)} s`).join('; ')
  if (spent !== '') parts.push(`Calibrating took, by whitening: ${spent}.`)
  return parts.join(' ')
}

function bytesCaption(rows: readonly Row[], settings: Settings): string {
  const parts = [
    'Low rank is the default (curve, two-sided, shrunk, pivoted, one level), where it says so after ' +
      'channels of the MLPs were dropped. Embedding and output head count as int8 in every row; rows that are not quantised hold them wider, and the row that rounds nothing but them shows what ' +
      'that is worth. Factors in int8 and int4 are rounded against the moments of the calibration, and so are the dense ' +
      'rows that say so; other dense rows to the nearest. 3 and 2 bits: to the nearest in groups of 32 with scale and ' +
      'zero point, as int4. A row is on the front if no other is both as small and as good.',
  ]
  const source = rows.find(({ model }) => model.kind === 'source')
  if (source !== undefined) {
    parts.push(
      `The source file holds its projections in ${settings.weights}, so its row in that type is the source itself ` +
        `(${megabytes(source.equalBytes)} MB): the dense rows start from weights that lie on that grid already, and ` +
        'int4 rounds them a second time, to another. The front leaves the source out.',
    )
  }
  return parts.join(' ')
}

function calibrationCaption({ summaries, summaryLimit, dialogues }: Settings): string {
  const parts = [
    'Two-sided whitening, shrunk, pivoted, one level; where it says so after channels of the MLPs were dropped.',
  ]
  if (dialogues !== undefined) {
    parts.push(
      `Dialogues: ${dialogues} in the model's chat template; half: as many windows of them as of the text.`,
    )
  }
  parts.push('Self: what the model itself wrote, plain and in its chat template.')
  if (summaries !== undefined) {
    parts.push(
      `ROUGE of summaries of the first ${summaryLimit} samples of ${summaries}, against people's, and ROUGE-L against ` +
        "the dense model's own; intervals of 95%. A dialogue's first 20 words and one sentence for all stand beside " +
        'them: what scores below them has not been shown to summarise.',
    )
  }
  return parts.join(' ')
}

function furtherCaption(rows: readonly Row[], { transfer, text }: Settings): string {
  const parts = ['Pivoted, one level; where it says so after channels of the MLPs were dropped.']
  if (rows.some(({ full }) => full !== undefined)) {
    parts.push(`Whole text: all of ${text} in windows of 2048, or of the model's context where that is less.`)
  }
  if (transfer !== undefined) parts.push(`Dialogues: perplexity of those of ${transfer}, as plain text.`)
  return parts.join(' ')
}
