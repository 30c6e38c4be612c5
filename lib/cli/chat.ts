import type { Command } from 'commander'
import { counted } from '../counted.js'
import { templateOf } from '../generate/prompt.js'
import { parseSchedule } from '../schedule.js'
import { converse, type Turn } from './conversation.js'
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

/** Tokens of an answer at most, and the share of the context that it may take. */
const longestAnswer = 512
const answerShare = 1 / 4

interface ChatFlags extends CommonOptions, ScheduleOptions, SamplingOptions {
  system?: string
  maxTokens?: number
}

export function registerChat(program: Command, signal: AbortSignal): void {
  const command = program
    .command('chat')
    .description('talk to a model, a line a message; its schedule begins anew with each answer')
    .argument('<model>', modelForms)
    .option('--system <text>', 'what the model is told before the conversation')
    .option(
      '--max-tokens <n>',
      `tokens of an answer at most (default: ${longestAnswer}, or a quarter of the context where that is less)`,
      wholeNumber(1),
    )
  addSamplingOptions(command, { temperature: 0.7, minP: 0.05 })
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: ChatFlags) => {
    const { dtype, device, threads, below, json, system, maxTokens, ...sampling } = flags
    const schedule = parseSchedule(flags.schedule)
    const model = await loadModel(path, { dtype, device, threads, below }, signal)
    noteUnusedSchedule(flags.schedule, model)
    templateOf(model, 'continue a text with flrc generate instead')
    const typed = process.stdin.isTTY && process.stderr.isTTY
    if (typed) note('Ctrl-C ends an answer, Ctrl-D the conversation; /clear begins a new one')
    const most = Math.min(longestAnswer, Math.floor(model.config.contextLength * answerShare))
    const turns = await converse(
      model,
      system === undefined ? [] : [{ role: 'system', content: system }],
      { ...sampling, maxTokens: maxTokens ?? most, schedule },
      {
        input: process.stdin,
        terminal: typed ? process.stderr : undefined,
        ...(json ? {} : { onPiece: ({ text }) => print(text), onAnswered: () => print('\n') }),
        note,
        interrupt: () => process.emit('SIGINT'),
        signal,
      },
    )
    if (json) await printJson({ turns })
    // Ctrl-D and Ctrl-C leave the cursor behind the prompt.
    else note(`${typed ? '\n' : ''}${summary(turns, flags.speculate !== undefined)}`)
  })
}

function summary(turns: readonly Turn[], speculates: boolean): string {
  const sum = (value: (turn: Turn) => number) => turns.reduce((total, turn) => total + value(turn), 0)
  const tokens = sum(({ tokenIds }) => tokenIds.length)
  const budget = sum(({ tokenIds, meanActiveBudget }) => tokenIds.length * meanActiveBudget) / tokens
  const drafts = speculates
    ? `, ${sum(({ accepted }) => accepted)} of ${sum(({ drafted }) => drafted)} drafts accepted`
    : ''
  const head = `${counted(turns.length, 'answer')}, ${counted(tokens, 'token')}`
  return tokens === 0 ? head : `${head}, mean active budget ${budget.toFixed(3)}${drafts}`
}
