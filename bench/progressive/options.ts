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

const sources: readonly CalibrationSource[] = ['text', 'half dialogues', 'dialogues', 'self', 'self and text']

export const usage = `usage: npm run bench:progressive -- [MODEL --calibration FILE --text FILE] [options]

Dense, static low rank and falling rank side by side: quality by step, summaries, and speed. Without MODEL: of the
embedded model, on its own texts, in some minutes.

  --calibration FILE        text that the models are calibrated on
  --dialogues FILE.jsonl    chats to calibrate on
  --calibrate-on SOURCE     ${sources.join(', ')}; text
  --text FILE               another text, whose windows are the prompts of agreement and KL
  --summaries FILE.jsonl    dialogues, which are then the prompts, and adds ROUGE of their summaries
  --dev FILE.jsonl          other dialogues; adds the schedules that are chosen on them
  --limit N                 samples of --summaries, --text and --dev; 100
  --budget B ...            mean active budgets; .9 .8 .7
  --span S                  how far the outer levels lie from the budget; .1
  --samples N --seq-len N   windows of calibration, and tokens in each; 64 and 512
  --dtype bf16|f32          what the dense model and its factors are held in; bf16
  --max-tokens N            tokens of a continuation; 60
  --prompts N ...           tokens of prompts whose speed is measured; 16 256
  --lengths N ...           tokens of generations whose speed is measured; 32 128 256
  --rounds N                rounds of speed; 5, and 0 for none
  --models DIR              keeps the models, and uses those that are there; a temporary folder
  --json FILE               keeps every row as soon as it is made
  --continue                makes only what FILE lacks
  --plot FILE.svg           draws quality against mean active budget, with the dense model for reference

Markdown goes to stdout, progress to stderr.`

export interface ProgressiveOptions {
  model: string
  files: { calibration: string; text: string; dialogues?: string; summaries?: string; dev?: string }
  source: CalibrationSource
  budgets: number[]
  span: number
  dtype: 'f32' | 'bf16'
  numbers: { samples: number; seqLen: number; maxTokens: number; limit: number }
  speed: { prompts: number[]; lengths: number[]; rounds: number }
  models: string | undefined
  json: string | undefined
  plot: string | undefined
  resume: boolean
}

const flags = {
  calibration: { type: 'string' },
  dialogues: { type: 'string' },
  'calibrate-on': { type: 'string', default: 'text' },
  text: { type: 'string' },
  summaries: { type: 'string' },
  dev: { type: 'string' },
  limit: { type: 'string', default: '100' },
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
  help: { type: 'boolean', default: false },
} as const

/** Undefined where help is asked for. E_USAGE names the option at fault. */
export function readOptions(args: readonly string[]): ProgressiveOptions | undefined {
  const { values, positionals } = parsedArguments(args, flags)
  if (values.help) return undefined
  const { model, calibration, text, isEmbedded } = subjectOf(positionals, values)
  checkContinue(values)
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
      limit: wholeOption('--limit', values.limit),
    },
    speed: {
      prompts: prompts.map((value) => wholeOption('--prompts', value)),
      lengths: lengths.map((value) => wholeOption('--lengths', value)),
      rounds,
    },
    models: values.models,
    json: values.json,
    plot: values.plot,
    resume: values.continue,
  }
}
