import type { Command } from 'commander'
import { counted } from '../../counted.js'
import { perplexity } from '../../evaluate.js'
import { readTextFile } from '../files.js'
import { loadModel } from '../load.js'
import { addCommonOptions, type CommonOptions, modelForms, wholeNumber } from '../options.js'
import { print, printJson } from '../output.js'
import { step } from '../steps.js'

interface PerplexityFlags extends CommonOptions {
  text: string
  seqLen?: number
  windows?: number
  level?: number
}

export function registerPerplexity(group: Command, signal: AbortSignal): void {
  const command = group
    .command('perplexity')
    .description('perplexity of a text in non-overlapping windows')
    .argument('<model>', modelForms)
    .requiredOption('--text <file>', 'text to measure on')
    .option(
      '--seq-len <n>',
      'tokens in a window (default: 2048, or the context where that is less)',
      wholeNumber(2),
    )
    .option('--windows <n>', 'windows from the start of the text (default: all)', wholeNumber(1))
    .option('--level <k>', 'level to measure at', wholeNumber(0), 0)
  addCommonOptions(command).action(async (path: string, flags: PerplexityFlags) => {
    const { json, text: file, seqLen, windows, level } = flags
    const text = await readTextFile(file)
    const model = await loadModel(path, flags, signal)
    const result = await step('perplexity', (onProgress) =>
      perplexity(model, text, { seqLen, windows, level, name: file, signal, onProgress }),
    )
    if (json) await printJson(result)
    else {
      const { perplexity: value, tokens, windows: count, seqLen: length } = result
      await print(
        `perplexity ${value.toFixed(4)} (${tokens} losses in ${counted(count, 'window')} of ${length} tokens)\n`,
      )
    }
  })
}
