import { checkOneOf } from '#lib/check.js'
import { checkContinue, parsedArguments, shareOption, subjectOf, wholeOption } from './arguments.js'
import { type SectionName, sectionNames } from './sections.js'

export const usage = `usage: npm run bench:quality -- [MODEL --calibration FILE --text FILE] [options]

The tables of compression methods. Without MODEL: of the embedded model, on its own texts, in a few minutes.

  --calibration FILE     text that rows are calibrated on (WikiText-2: wiki.valid.tokens)
  --text FILE            another text, whose perplexity is measured (wiki.test.raw)
  --section NAME ...     ${sectionNames.join(', ')}; all by default
  --keep K ...           kept shares of the methods' table; .9 .8 .6
  --samples N --seq-len N    windows of calibration, and tokens in any window; 64 and 512
  --windows N            windows to measure; 24
  --dtype bf16|f32       what the dense model and its factors are held in; bf16
  --search-windows N     calibration windows that ASVD's sensitivity search sees; 2
  --choices FILE.jsonl [--choice-limit N] [--choice-keep K]
                         adds the accuracy among given continuations, of dense rows and of the pivoted ones at
                         one keep, .8
  --dialogues FILE.jsonl                        chats to calibrate on, for the calibration's table
  --summaries FILE.jsonl [--summary-limit N]    adds ROUGE of summaries to it; 100
  --transfer FILE.jsonl  dialogues whose perplexity the further table has
  --full                 the whole of --text in windows of 2048 in the further table
  --row TEXT ...         makes only rows whose keys, as in the JSON file, hold one of these; all
  --json FILE            keeps every row as soon as it is made
  --continue             makes only what FILE lacks

An option with dots may be given several times, each time with one value. Markdown goes to stdout, progress to stderr.`

export interface QualityOptions {
  model: string
  files: {
    calibration: string
    text: string
    choices?: string
    dialogues?: string
    summaries?: string
    transfer?: string
  }
  sections: SectionName[]
  keeps: number[]
  dtype: 'f32' | 'bf16'
  /** What decides every row's numbers. */
  numbers: { samples: number; seqLen: number; windows: number; searchWindows: number }
  /** The keep whose rows are measured on choices. */
  choiceKeep: number
  limits: { choiceLimit?: number; summaryLimit?: number }
  full: boolean
  /** Parts of the keys of the rows to make; all where there are none. */
  rows: readonly string[]
  json: string | undefined
  resume: boolean
}

const flags = {
  calibration: { type: 'string' },
  text: { type: 'string' },
  section: { type: 'string', multiple: true },
  keep: { type: 'string', multiple: true },
  samples: { type: 'string' },
  'seq-len': { type: 'string' },
  windows: { type: 'string', default: '24' },
  dtype: { type: 'string', default: 'bf16' },
  'search-windows': { type: 'string', default: '2' },
  choices: { type: 'string' },
  'choice-limit': { type: 'string' },
  'choice-keep': { type: 'string', default: '.8' },
  dialogues: { type: 'string' },
  summaries: { type: 'string' },
  'summary-limit': { type: 'string', default: '100' },
  transfer: { type: 'string' },
  full: { type: 'boolean', default: false },
  row: { type: 'string', multiple: true },
  json: { type: 'string' },
  continue: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

/** Undefined where help is asked for. E_USAGE names the option at fault. */
export function readOptions(args: readonly string[]): QualityOptions | undefined {
  const { values, positionals } = parsedArguments(args, flags)
  if (values.help) return undefined
  const { model, calibration, text, isEmbedded } = subjectOf(positionals, values)
  checkContinue(values)
  const { section: sections = sectionNames, keep: keeps = ['.9', '.8', '.6'] } = values
  for (const section of sections) checkOneOf('--section', section, sectionNames)
  checkOneOf('--dtype', values.dtype, ['bf16', 'f32'])
  const { choices, dialogues, summaries, transfer } = values
  return {
    model,
    files: { calibration, text, choices, dialogues, summaries, transfer },
    sections: sectionNames.filter((name) => sections.includes(name)),
    keeps: keeps.map((keep) => shareOption('--keep', keep)),
    dtype: values.dtype as 'f32' | 'bf16',
    numbers: {
      samples: wholeOption('--samples', values.samples ?? (isEmbedded ? '128' : '64')),
      seqLen: wholeOption('--seq-len', values['seq-len'] ?? (isEmbedded ? '256' : '512')),
      windows: wholeOption('--windows', values.windows),
      searchWindows: wholeOption('--search-windows', values['search-windows']),
    },
    choiceKeep: shareOption('--choice-keep', values['choice-keep']),
    limits: {
      ...(values['choice-limit'] === undefined
        ? {}
        : { choiceLimit: wholeOption('--choice-limit', values['choice-limit']) }),
      ...(summaries === undefined
        ? {}
        : { summaryLimit: wholeOption('--summary-limit', values['summary-limit']) }),
    },
    full: values.full,
    rows: values.row ?? [],
    json: values.json,
    resume: values.continue,
  }
}
