import type { Command } from 'commander'
import { counted } from '../counted.js'
import { complete, type SpeculateOptions } from '../generate.js'
import { parseSchedule } from '../schedule.js'
import { loadModel } from './load.js'
import {
  addCommonOptions,
  addScheduleOptions,
  type CommonOptions,
  collect,
  modelForms,
  numberIn,
  parseSpeculation,
  type ScheduleOptions,
  wholeNumber,
} from './options.js'
import { note, print, printJson } from './output.js'

interface GenerateFlags extends CommonOptions, ScheduleOptions {
  prompt: string
  chat: boolean
  maxTokens: number
  speculate?: SpeculateOptions
  temperature: number
  topK: number
  topP: number
  minP: number
  seed: number
  stop?: string[]
}

export function registerGenerate(program: Command, signal: AbortSignal): void {
  const command = program
    .command('generate')
    .description('continue a text, with a rank that may fall as it goes')
    .argument('<model>', modelForms)
    .requiredOption('-p, --prompt <text>', 'text to continue')
    .option('--chat', "put the prompt into the model's chat template", false)
    .option('--max-tokens <n>', 'tokens to generate at most', wholeNumber(0), 64)
    .option(
      '--speculate <K:B>',
      'draft up to K tokens (1 to 15) at budget B and verify them together at level 0',
      parseSpeculation,
    )
    .option('--temperature <t>', '0 is greedy', numberIn(0, Number.POSITIVE_INFINITY), 0)
    .option('--top-k <k>', 'sample from the k likeliest tokens; 0 is off', wholeNumber(0), 0)
    .option(
      '--top-p <p>',
      'sample from the likeliest tokens of this probability; 1 is off',
      numberIn(0, 1, true),
      1,
    )
    .option('--min-p <p>', 'leave out tokens less likely than this share of the likeliest', numberIn(0, 1), 0)
    .option('--seed <n>', 'seed of the sampling', wholeNumber(0), 0)
    .option('--stop <text>', 'end before this text; may be given several times', collect)
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: GenerateFlags) => {
    const { dtype, device, threads, below, json, prompt, chat, ...options } = flags
    const schedule = parseSchedule(flags.schedule)
    const model = await loadModel(path, { dtype, device, threads, below }, signal)
    if (flags.schedule !== 'full' && model.levels.length === 1) {
      note(
        'note: the model has one level, so the schedule changes nothing; levels come from flrc compress --levels',
      )
    }
    const settings = { ...options, schedule, signal }
    const generation = chat ? model.chat().send(prompt, settings) : model.generate(prompt, settings)
    const completion = await complete(generation, json ? undefined : (piece) => print(piece.text))
    if (json) {
      await printJson(completion)
      return
    }
    await print('\n')
    const speed = completion.tokensPerSecond > 0 ? `, ${completion.tokensPerSecond.toFixed(1)} tokens/s` : ''
    const { tokenIds, finishReason, meanActiveBudget, drafted, accepted } = completion
    const cut = finishReason === 'length' ? ', as many as --max-tokens allows' : ''
    const drafts = flags.speculate ? `, ${accepted} of ${drafted} drafts accepted` : ''
    note(
      `${counted(tokenIds.length, 'token')}${cut}; mean active budget ${meanActiveBudget.toFixed(3)}${drafts}${speed}`,
    )
  })
}
