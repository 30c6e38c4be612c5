import type { Command } from 'commander'
import { registerChoice } from './eval/choice.js'
import { registerPerplexity } from './eval/perplexity.js'
import { registerSummarize } from './eval/summarize.js'

export function registerEval(program: Command, signal: AbortSignal): void {
  const group = program.command('eval').description('measure a model')
  registerPerplexity(group, signal)
  registerSummarize(group, signal)
  registerChoice(group, signal)
}
