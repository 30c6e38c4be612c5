import type { Command } from 'commander'
import { counted } from '../../counted.js'
import { parseDialogues } from '../../data/dialogues.js'
import { type AgreementResult, agreement } from '../../evaluate.js'
import { parseSchedule } from '../../schedule.js'
import { readTextFile } from '../files.js'
import { loadModel } from '../load.js'
import {
  addCommonOptions,
  addScheduleOptions,
  type CommonOptions,
  modelForms,
  type ScheduleOptions,
  wholeNumber,
} from '../options.js'
import { formatTable, print, printJson } from '../output.js'
import { step } from '../steps.js'

interface AgreementFlags extends CommonOptions, ScheduleOptions {
  reference: string
  data: string
  limit?: number
  maxTokens: number
}

export function registerAgreement(group: Command, signal: AbortSignal): void {
  const command = group
    .command('agreement')
    .description("how a model departs, step by step after the prompt, from another's greedy continuation")
    .argument('<model>', modelForms)
    .requiredOption('--reference <model>', 'the model to agree with, such as the dense one; in its own dtype')
    .requiredOption('--data <file>', '.jsonl with dialogue or messages in each line, or a plain text')
    .option('--limit <n>', 'samples from the start of the file (default: all)', wholeNumber(1))
    .option('--max-tokens <n>', 'tokens after each prompt at most', wholeNumber(1), 60)
  addCommonOptions(addScheduleOptions(command)).action(async (path: string, flags: AgreementFlags) => {
    const { json, data, limit, maxTokens, device, threads } = flags
    const schedule = parseSchedule(flags.schedule)
    const text = await readTextFile(data)
    const samples = data.endsWith('.jsonl') ? parseDialogues(text, data) : text
    const model = await loadModel(path, flags, signal)
    const reference = await loadModel(flags.reference, { device, threads }, signal)
    const result = await step('agreement', (onProgress) =>
      agreement(model, reference, samples, { limit, maxTokens, schedule, name: data, signal, onProgress }),
    )
    if (json) await printJson(result)
    else await print(describe(result))
  })
}

function describe({ agreement: share, meanKl, byStep, intervals, ...rest }: AgreementResult): string {
  const rows = byStep.map((row) => [
    String(row.step),
    row.activeBudget.toFixed(3),
    percent(row.agreement),
    row.kl.toFixed(4),
    String(row.samples),
  ])
  const [low, high] = intervals.agreement
  const [lowKl, highKl] = intervals.meanKl
  return (
    `${formatTable(['step', 'active budget', 'agreement', 'KL', 'samples'], rows)}\n` +
    `agreement ${percent(share)} (${percent(low)} to ${percent(high)}), mean KL ${meanKl.toFixed(4)} ` +
    `(${lowKl.toFixed(4)} to ${highKl.toFixed(4)})\n` +
    `over ${rest.tokens} tokens of ${counted(rest.samples, 'sample')}, mean active budget ${rest.meanActiveBudget.toFixed(3)}\n`
  )
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`
}
