import type { Command } from 'commander'
import type { SpeculateOptions } from '../generate.js'
import { collect, numberIn, parseSpeculation, wholeNumber } from './options.js'

/** What commands that write text take. */
export interface SamplingOptions {
  speculate?: SpeculateOptions
  temperature: number
  topK: number
  topP: number
  minP: number
  repeatPenalty: number
  frequencyPenalty: number
  presencePenalty: number
  seed: number
  stop?: string[]
}

/** `usual` are the defaults where commands differ. */
export function addSamplingOptions(
  command: Command,
  usual: Pick<SamplingOptions, 'temperature' | 'minP'>,
): Command {
  return command
    .option(
      '--speculate <K:B>',
      'draft up to K tokens (1 to 15) at budget B and verify them together at level 0',
      parseSpeculation,
    )
    .option('--temperature <t>', '0 is greedy', numberIn(0, Number.POSITIVE_INFINITY), usual.temperature)
    .option('--top-k <k>', 'sample from the k likeliest tokens; 0 is off', wholeNumber(0), 0)
    .option(
      '--top-p <p>',
      'sample from the likeliest tokens of this probability; 1 is off',
      numberIn(0, 1, true),
      1,
    )
    .option(
      '--min-p <p>',
      'leave out tokens less likely than this share of the likeliest; 0 is off',
      numberIn(0, 1),
      usual.minP,
    )
    .option(
      '--repeat-penalty <p>',
      'divide logits of tokens in the text so far by this; 1 is off',
      numberIn(0.1, 10),
      1,
    )
    .option(
      '--frequency-penalty <p>',
      'take this from a logit each time its token was written; 0 is off',
      numberIn(-2, 2),
      0,
    )
    .option(
      '--presence-penalty <p>',
      'take this from the logits of all tokens written; 0 is off',
      numberIn(-2, 2),
      0,
    )
    .option('--seed <n>', 'seed of the sampling', wholeNumber(0), 0)
    .option('--stop <text>', 'end before this text; may be given several times', collect)
}
