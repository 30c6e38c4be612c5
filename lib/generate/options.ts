import { checkRange, checkWhole, refuse } from '../check.js'
import { counted } from '../counted.js'
import { FlrcError } from '../errors.js'
import type { LoadedModel } from '../model.js'
import { full, type Schedule, scheduleOn } from '../schedule.js'
import { Penalties } from './penalties.js'
import { checkSpeculate, type Speculation } from './speculation.js'
import type { GenerateOptions } from './types.js'

/** As many as OpenAI's API gives. */
export const mostTopLogprobs = 20

/** What `checkOptions` makes of a generation's options. */
export interface DecodeOptions
  extends Required<Omit<GenerateOptions, 'signal' | 'schedule' | 'speculate' | 'stop'>> {
  stop: readonly string[]
  schedule: Schedule | undefined
  speculation: Speculation | undefined
  /** Prompt tokens that the session's cache already holds. */
  reused: number
}

/** Fills in the defaults. E_USAGE names the first option that cannot be used. */
export function checkOptions(options: GenerateOptions, model: LoadedModel): Omit<DecodeOptions, 'reused'> {
  const {
    maxTokens = 64,
    schedule,
    speculate,
    temperature = 0,
    topK = 0,
    topP = 1,
    minP = 0,
    seed = 0,
    repeatPenalty = 1,
    frequencyPenalty = 0,
    presencePenalty = 0,
    topLogprobs = 0,
  } = options
  const stop = typeof options.stop === 'string' ? [options.stop] : (options.stop ?? [])
  checkWhole('maxTokens', maxTokens, 0)
  checkWhole('topK', topK, 0)
  checkWhole('seed', seed, 0)
  checkWhole('topLogprobs', topLogprobs, 0)
  if (topLogprobs > mostTopLogprobs) refuse('topLogprobs', topLogprobs, `${mostTopLogprobs} at most`)
  checkRange('temperature', temperature, 0, Number.MAX_VALUE, 'a number from 0')
  checkRange('minP', minP, 0, 1, 'a number from 0 to 1')
  checkRange('topP', topP, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  checkRange('repeatPenalty', repeatPenalty, 0.1, 10, 'a number from 0.1 to 10')
  const penalties = { repeatPenalty, frequencyPenalty, presencePenalty }
  for (const name of ['frequencyPenalty', 'presencePenalty'] as const) {
    checkRange(name, penalties[name], -2, 2, 'a number from -2 to 2')
  }
  if (schedule !== undefined && typeof schedule !== 'function' && typeof schedule !== 'string')
    refuse('schedule', schedule, 'a function of the step, or a text such as linear:.9:.7:64')
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string' || text === '')) {
    refuse('stop', JSON.stringify(options.stop), 'a string that is not empty, or a list of such')
  }
  const running = schedule === undefined ? undefined : scheduleOn(schedule, model)
  const speculation = speculate && checkSpeculate(speculate, model)
  if (speculation && running !== undefined && running !== full()) {
    throw new FlrcError(
      'E_USAGE',
      'speculation verifies every token at level 0, so it goes with no schedule but full; leave one of the two out',
    )
  }
  if (speculation && Penalties.of(penalties, [])) {
    throw new FlrcError(
      'E_USAGE',
      'speculation draws several tokens at once, so it goes with no penalty; leave one of the two out',
    )
  }
  if (speculation && topLogprobs > 0) {
    throw new FlrcError(
      'E_USAGE',
      'speculation draws several tokens at once and names none beside them; leave topLogprobs or speculate out',
    )
  }
  const sampling = { temperature, topK, topP, minP, seed, topLogprobs }
  return { maxTokens, schedule: running, speculation, ...sampling, ...penalties, stop }
}

/**
 * The token ids of a prompt; the begin token where it is empty. E_USAGE for ids that there are not, E_CONTEXT for a text of
 * more tokens than the context has.
 */
export function promptTokens(model: LoadedModel, prompt: string | readonly number[] | Int32Array): number[] {
  if (typeof prompt !== 'string' && !Array.isArray(prompt) && !(prompt instanceof Int32Array)) {
    refuse('the prompt', prompt, 'a text or a list of token ids')
  }
  const { vocabSize, bosTokenId, eosTokenIds, contextLength: context } = model.config
  const tokens = Array.from(typeof prompt === 'string' ? model.tokenizer.encode(prompt, { context }) : prompt)
  const wrong = tokens.find((token) => !Number.isSafeInteger(token) || token < 0 || token >= vocabSize)
  if (wrong !== undefined) {
    refuse('a token of the prompt', wrong, `a whole number below the vocabulary's ${vocabSize}`)
  }
  if (tokens.length > 0) return tokens
  const first = bosTokenId ?? eosTokenIds[0]
  if (first === undefined) {
    throw new FlrcError('E_USAGE', 'the prompt is empty and the model has no begin token; give a prompt')
  }
  return [first]
}

/** E_CONTEXT where the prompt and what may follow exceed the context. */
export function checkContext(model: LoadedModel, prompt: number, maxTokens: number): void {
  const context = model.config.contextLength
  if (prompt + maxTokens <= context) return
  throw new FlrcError(
    'E_CONTEXT',
    `${counted(prompt, 'prompt token')} and up to ${maxTokens} new ones exceed the context of ${context}; ` +
      `shorten the prompt or lower maxTokens (--max-tokens)`,
  )
}
