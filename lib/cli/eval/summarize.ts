import type { Command } from 'commander'
import { counted } from '../../counted.js'
import { parseDialogues } from '../../data/dialogues.js'
import { parseOutputs } from '../../data/outputs.js'
import { type SummarizeResult, summarize } from '../../evaluate.js'
import { parseSchedule } from '../../schedule.js'
import { checkNewFile, readTextFile, writeNewFile } from '../files.js'
import { loadModel } from '../load.js'
import {
  addCommonOptions,
  addScheduleOptions,
  type CommonOptions,
  modelForms,
  type ScheduleOptions,
  wholeNumber,
} from '../options.js'
import { formatBytes, formatTable, print, printJson } from '../output.js'
import { step } from '../steps.js'

interface SummarizeFlags extends CommonOptions, ScheduleOptions {
  data: string
  limit?: number
  maxTokens: number
  outputs?: string
  reference?: string
}

export function registerSummarize(group: Command, signal: AbortSignal): void {
  const command = group
    .command('summarize')
    .description('ROUGE of the summaries that the model writes of dialogues')
    .argument('<model>', modelForms)
    .requiredOption('--data <file>', '.jsonl with dialogue and summary (or summary1 to summary3) in each line')
    .option('--limit <n>', 'samples from the start of the file (default: all)', wholeNumber(1))
    .option('--max-tokens <n>', 'tokens of a summary at most', wholeNumber(1), 60)
    .option('--outputs <file>', 'write the texts with their scores to this .jsonl file')
    .option('--reference <file>', 'score against these outputs of another model too (what --outputs wrote)')
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: SummarizeFlags) => {
    const { json, data, limit, maxTokens, outputs } = flags
    const schedule = flags.schedule === 'full' ? undefined : parseSchedule(flags.schedule)
    if (outputs !== undefined) await checkNewFile(outputs)
    const samples = parseDialogues(await readTextFile(data), data)
    const reference =
      flags.reference === undefined
        ? undefined
        : parseOutputs(await readTextFile(flags.reference), flags.reference)
    const model = await loadModel(path, flags, signal)
    const { outputs: written, ...result } = await step('summarize', (onProgress) =>
      summarize(model, samples, { limit, maxTokens, schedule, reference, signal, onProgress }),
    )
    // An hour's result is told before a full disk can end it; JSON is one document, with the error or without.
    if (!json) await print(describe(result))
    if (outputs !== undefined) {
      await writeNewFile(outputs, written.map((output) => `${JSON.stringify(output)}\n`).join(''))
    }
    if (json) await printJson(result)
  })
}

const measures = { rouge1: 'ROUGE-1', rouge2: 'ROUGE-2', rougeL: 'ROUGE-L' } as const

function describe(result: Omit<SummarizeResult, 'outputs'>): string {
  const { reference, samples, meanActiveBudget, bytesPerToken } = result
  const against = { "people's summaries": result, ...(reference && { 'the reference': reference }) }
  const rows = Object.entries(measures).map(([key, name]) => [
    name,
    ...Object.values(against).map((scores) => {
      const [low, high] = scores.intervals[key as keyof typeof measures]
      return `${scores[key as keyof typeof measures].toFixed(4)} (${low.toFixed(4)} to ${high.toFixed(4)})`
    }),
  ])
  return (
    `${formatTable(['against', ...Object.keys(against)], rows)}\n` +
    `${counted(samples, 'sample')}, mean active budget ${meanActiveBudget.toFixed(3)}, ${formatBytes(bytesPerToken)} a token\n`
  )
}
