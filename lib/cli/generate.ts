import type { Command } from 'commander'
import { counted } from '../counted.js'
import { complete } from '../generate.js'
import { parseSchedule } from '../schedule.js'
import { readPrompt } from './files.js'
import { loadModel, noteUnusedSchedule } from './load.js'
import {
  addCommonOptions,
  addScheduleOptions,
  type CommonOptions,
  modelForms,
  type ScheduleOptions,
  wholeNumber,
} from './options.js'
import { note, print, printJson } from './output.js'
import { addSamplingOptions, type SamplingOptions } from './sampling.js'

interface GenerateFlags extends CommonOptions, ScheduleOptions, SamplingOptions {
  prompt?: string
  file?: string
  chat: boolean
  maxTokens: number
}

export function registerGenerate(program: Command, signal: AbortSignal): void {
  const command = program
    .command('generate')
    .description('continue a text, with a rank that may fall as it goes')
    .argument('<model>', modelForms)
    .option('-p, --prompt <text>', 'text to continue')
    .option('-f, --file <file>', 'file with the text to continue, instead of --prompt; - is stdin')
    .option('--chat', "put the prompt into the model's chat template", false)
    .option('--max-tokens <n>', 'tokens to generate at most', wholeNumber(0), 64)
  addSamplingOptions(command, { temperature: 0, minP: 0 })
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: GenerateFlags) => {
    const { dtype, device, threads, below, json, file, chat, ...options } = flags
    if ((flags.prompt === undefined) === (file === undefined)) {
      command.error('error: give exactly one of --prompt and --file')
    }
    const schedule = parseSchedule(flags.schedule)
    const prompt = flags.prompt ?? (await readPrompt(file ?? '-', signal))
    const model = await loadModel(path, { dtype, device, threads, below }, signal)
    noteUnusedSchedule(flags.schedule, model)
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
