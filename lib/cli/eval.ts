import type { Command } from 'commander'
import { registerAgreement } from './eval/agreement.js'
import { registerChoice } from './eval/choice.js'
import { registerPerplexity } from './eval/perplexity.js'
import { registerSummarize } from './eval/summarize.js'

export function registerEval(program: Command, signal: AbortSignal): void {
  const group = program.command('eval').description('measure a model')
  registerPerplexity(group, signal)
  registerSummarize(group, signal)
  registerChoice(group, signal)
  registerAgreement(group, signal)
}
