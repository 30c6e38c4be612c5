import { checkOneOf, checkWhole } from '#lib/check.js'
import {
  checkContinue,
  parsedArguments,
  shareOption,
  subjectOf,
  usageError,
  wholeOption,
} from '../quality/arguments.js'
import type { CalibrationSource } from '../quality/rows.js'

const sources: readonly CalibrationSource[] = [
  ...(['text', 'half dialogues', 'dialogues', 'self', 'self and text'] as const),
  'dialogues, text and self',
]

export const usage = `usage: npm run bench:progressive -- [MODEL --calibration FILE --text FILE] [options]

Dense, static low rank and falling rank side by side: quality by step, summaries, and speed. Without MODEL: of the
embedded model, on its own texts, in some minutes.

  --calibration FILE        text that the models are calibrated on
  --dialogues FILE.jsonl    chats to calibrate on
  --calibrate-on SOURCE     ${sources.join(', ')}; text
  --text FILE               another text, whose windows are the prompts of agreement and KL
  --summaries FILE.jsonl    dialogues, which are then the prompts, and adds ROUGE of their summaries
  --limit N                 samples of --summaries or --text; 100. A larger one adds samples to stored rows
  --along-limit N           those of agreement and KL, which cost twice the writing; as --limit
  --dev FILE.jsonl          other dialogues, on which schedules are fitted; adds those that are chosen on them
  --dev-limit N             samples of --dev; 100
  --asvd DIR                adds ASVD, by the search of a checkpoint that flrc compress --method asvd made
  --budget B ...            mean active budgets; .9 .8 .7
  --span S                  how far the outer levels lie from the budget; .1
  --samples N --seq-len N   windows of calibration, and tokens in each; 64 and 512
  --dtype bf16|f32          what the dense model and its factors are held in; bf16
  --max-tokens N            tokens of a continuation; 60
  --prompts N ...           tokens of prompts whose speed is measured; 16 256
  --lengths N ...           tokens of generations whose speed is measured; 32 128 256
  --rounds N                rounds of speed; 5, and 0 for none
  --row TEXT ...            only rows whose names hold one of these, and the dense model; all
  --models DIR              keeps the models and what they write, and uses those that are there; a temporary folder
  --json FILE               keeps every row, 64 samples at a time
  --continue                makes only what FILE lacks
  --render                  makes nothing: the tables (and --plot) of what FILE has
  --plot FILE.svg           draws quality against mean active budget, with the dense model for reference

Markdown goes to stdout, progress to stderr.`

export interface ProgressiveOptions {
  model: string
  files: { calibration: string; text: string; dialogues?: string; summaries?: string; dev?: string }
  source: CalibrationSource
  budgets: number[]
  span: number
  dtype: 'f32' | 'bf16'
  numbers: { samples: number; seqLen: number; maxTokens: number; devLimit: number }
  /** Samples to measure. */
  limit: number
  /** Those of them that agreement and KL are measured on. */
  alongLimit: number
  /** Checkpoint with ASVD's search. */
  asvd: string | undefined
  /** Parts of the names of the rows to make; all where there are none. */
  rows: readonly string[]
  speed: { prompts: number[]; lengths: number[]; rounds: number }
  models: string | undefined
  json: string | undefined
  plot: string | undefined
  resume: boolean
  render: boolean
}

const flags = {
  calibration: { type: 'string' },
  dialogues: { type: 'string' },
  'calibrate-on': { type: 'string', default: 'text' },
  text: { type: 'string' },
  summaries: { type: 'string' },
  dev: { type: 'string' },
  limit: { type: 'string', default: '100' },
  'along-limit': { type: 'string' },
  'dev-limit': { type: 'string', default: '100' },
  asvd: { type: 'string' },
  row: { type: 'string', multiple: true },
  budget: { type: 'string', multiple: true },
  span: { type: 'string', default: '.1' },
  samples: { type: 'string', default: '64' },
  'seq-len': { type: 'string' },
  dtype: { type: 'string', default: 'bf16' },
  'max-tokens': { type: 'string', default: '60' },
  prompts: { type: 'string', multiple: true },
  lengths: { type: 'string', multiple: true },
  rounds: { type: 'string', default: '5' },
  models: { type: 'string' },
  json: { type: 'string' },
  plot: { type: 'string' },
  continue: { type: 'boolean', default: false },
  render: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

/** Undefined where help is asked for. E_USAGE names the option at fault. */
export function readOptions(args: readonly string[]): ProgressiveOptions | undefined {
  const { values, positionals } = parsedArguments(args, flags)
  if (values.help) return undefined
  const { model, calibration, text, isEmbedded } = subjectOf(positionals, values)
  checkContinue(values)
  if (values.render && values.json === undefined) throw usageError('--render needs the --json FILE to render')
  checkOneOf('--dtype', values.dtype, ['bf16', 'f32'])
  checkOneOf('--calibrate-on', values['calibrate-on'], sources)
  const source = values['calibrate-on'] as CalibrationSource
  if (source.includes('dialogues') && values.dialogues === undefined) {
    throw usageError(`--calibrate-on ${source} needs --dialogues FILE.jsonl`)
  }
  const { dialogues, summaries, dev, budget: budgets = ['.9', '.8', '.7'] } = values
  const { prompts = ['16', '256'], lengths = isEmbedded ? ['32', '128'] : ['32', '128', '256'] } = values
  const rounds = Number(values.rounds)
  checkWhole('--rounds', rounds, 0)
  return {
    model,
    files: { calibration, text, dialogues, summaries, dev },
    source,
    budgets: budgets.map((budget) => shareOption('--budget', budget)),
    span: shareOption('--span', values.span),
    dtype: values.dtype as 'f32' | 'bf16',
    numbers: {
      samples: wholeOption('--samples', values.samples),
      seqLen: wholeOption('--seq-len', values['seq-len'] ?? (isEmbedded ? '256' : '512')),
      maxTokens: wholeOption('--max-tokens', values['max-tokens']),
      devLimit: wholeOption('--dev-limit', values['dev-limit']),
    },
    limit: wholeOption('--limit', values.limit),
    alongLimit: wholeOption('--along-limit', values['along-limit'] ?? values.limit),
    asvd: values.asvd,
    rows: values.row ?? [],
    speed: {
      prompts: prompts.map((value) => wholeOption('--prompts', value)),
      lengths: lengths.map((value) => wholeOption('--lengths', value)),
      rounds,
    },
    models: values.models,
    json: values.json,
    plot: values.plot,
    resume: values.continue,
    render: values.render,
  }
}
