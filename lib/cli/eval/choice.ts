import type { Command } from 'commander'
import { parseChoices } from '../../data/choices.js'
import { choice } from '../../evaluate.js'
import { readTextFile } from '../files.js'
import { loadModel } from '../load.js'
import { addCommonOptions, type CommonOptions, modelForms, wholeNumber } from '../options.js'
import { print, printJson } from '../output.js'
import { step } from '../steps.js'

interface ChoiceFlags extends CommonOptions {
  data: string
  limit?: number
  level: number
}

export function registerChoice(group: Command, signal: AbortSignal): void {
  const command = group
    .command('choice')
    .description('how often the right one of several continuations is the likeliest')
    .argument('<model>', modelForms)
    .requiredOption('--data <file>', '.jsonl with context, choices and answer (an index) in each line')
    .option('--limit <n>', 'samples from the start of the file (default: all)', wholeNumber(1))
    .option('--level <k>', 'level to measure at', wholeNumber(0), 0)
  addCommonOptions(command).action(async (path: string, flags: ChoiceFlags) => {
    const { json, data, limit, level } = flags
    const samples = parseChoices(await readTextFile(data), data)
    const model = await loadModel(path, flags, signal)
    const { outcomes: _, ...result } = await step('choice', (onProgress) =>
      choice(model, samples, { limit, level, signal, onProgress }),
    )
    if (json) await printJson(result)
    else {
      const { accuracy, accuracyNormalised, intervals, samples: count } = result
      await print(
        `accuracy ${percent(accuracy, intervals.accuracy)}, per character ` +
          `${percent(accuracyNormalised, intervals.accuracyNormalised)} of ${count} samples\n`,
      )
    }
  })
}

function percent(value: number, [low, high]: readonly [number, number]): string {
  const digits = (share: number) => (100 * share).toFixed(1)
  return `${digits(value)}% (${digits(low)} to ${digits(high)})`
}
