import { checkLevel, checkObject } from '../check.js'
import type { ChoiceSample } from '../data/choices.js'
import { FlrcError } from '../errors.js'
import { checkModel, type LoadedModel, type TaskOptions } from '../model.js'
import type { Session } from '../session.js'
import { bootstrapMean } from '../statistics/bootstrap.js'
import type { Tokenizer } from '../tokenizer.js'
import { firstSamples, ofSample, sampleName } from './samples.js'

export interface ChoiceOptions extends TaskOptions {
  /** Samples to measure, from the first; all by default. */
  limit?: number
  /** Level to measure at; 0 by default. */
  level?: number
}

/** What the model made of one sample. */
export interface ChoiceOutcome {
  /** The sample's own, or its place counted from 1. */
  id: string
  /** Per choice the natural log of its probability behind the context. */
  logLikelihoods: number[]
  /** Index of the likeliest choice; of equals, the first. */
  chosen: number
  /** Index of the choice that is likeliest per character. */
  chosenNormalised: number
  answer: number
}

export interface ChoiceResult {
  /** Share of samples whose right choice is the likeliest. */
  accuracy: number
  /** The same by log-likelihood per character (Unicode code point) of the choice, lm-eval's `acc_norm`. */
  accuracyNormalised: number
  samples: number
  /** 95% bootstrap intervals, [low, high], seeded. */
  intervals: { accuracy: [number, number]; accuracyNormalised: [number, number] }
  outcomes: ChoiceOutcome[]
}

/**
 * Which of several continuations a model holds the likeliest, as EleutherAI's lm-evaluation-harness measures
 * multiple choice: every choice's tokens are those of context + choice from where the context's own tokens
 * end. Errors: E_USAGE for samples, a limit or a level that cannot be used; E_CONTEXT where a sample is too
 * long; E_NUMERIC for a logit that is not finite; E_ABORTED.
 */
export async function choice(
  model: LoadedModel,
  samples: readonly ChoiceSample[],
  options: ChoiceOptions = {},
): Promise<ChoiceResult> {
  checkModel(model)
  checkObject('the third argument', options, 'options, such as { limit: 50 }')
  const { limit, level = 0, signal, onProgress } = options
  checkLevel(level, model.levels.length)
  const chosen = firstSamples(samples, limit)
  chosen.forEach(checkSample)
  const outcomes: ChoiceOutcome[] = []
  for (const [index, sample] of chosen.entries()) {
    onProgress?.({ stage: 'choice', done: index, total: chosen.length })
    const id = sampleName(sample, index)
    try {
      outcomes.push({ id, ...(await judge(model, sample, level, signal)) })
    } catch (error) {
      throw ofSample(id, error)
    }
  }
  onProgress?.({ stage: 'choice', done: chosen.length, total: chosen.length })
  const accuracy = bootstrapMean(outcomes.map((outcome) => Number(outcome.chosen === outcome.answer)))
  const normalised = bootstrapMean(
    outcomes.map((outcome) => Number(outcome.chosenNormalised === outcome.answer)),
  )
  return {
    accuracy: accuracy.mean,
    accuracyNormalised: normalised.mean,
    samples: outcomes.length,
    intervals: { accuracy: accuracy.interval, accuracyNormalised: normalised.interval },
    outcomes,
  }
}

function checkSample(sample: ChoiceSample, index: number): void {
  const { choices, answer } = sample
  const known = Number.isSafeInteger(answer) && answer >= 0 && answer < choices.length
  if (known && choices.length >= 2 && choices.every((text) => text !== '')) return
  throw new FlrcError(
    'E_USAGE',
    `sample ${sampleName(sample, index)} has the answer ${answer} of ${choices.length} choices; give at least two choices, none empty, and an index from 0`,
  )
}

async function judge(
  model: LoadedModel,
  { context, choices, answer }: ChoiceSample,
  level: number,
  signal: AbortSignal | undefined,
): Promise<Omit<ChoiceOutcome, 'id'>> {
  const pairs = choices.map((text) => encodePair(model, context, text))
  const longest = Math.max(...pairs.map(({ tokens }) => tokens.length))
  if (longest > model.config.contextLength) {
    throw new FlrcError(
      'E_CONTEXT',
      `context and choice of ${longest} tokens exceed the model's context of ${model.config.contextLength}; shorten them`,
    )
  }
  const logLikelihoods: number[] = []
  const session = model.createSession()
  try {
    const shared = sharedPrefix(pairs)
    if (shared.length > 0) await session.prefill(shared, level, signal)
    for (const pair of pairs) logLikelihoods.push(await likelihood(session, pair, shared.length, level, signal))
  } finally {
    session.release()
  }
  const perCharacter = logLikelihoods.map((value, index) => value / Array.from(choices[index] ?? '').length)
  return {
    logLikelihoods,
    chosen: likeliest(logLikelihoods),
    chosenNormalised: likeliest(perCharacter),
    answer,
  }
}

/** The session holds the first `shared` tokens before and after. */
async function likelihood(
  session: Session,
  { tokens, from }: EncodedPair,
  shared: number,
  level: number,
  signal: AbortSignal | undefined,
): Promise<number> {
  const logprobs = await session.logprobs(tokens.slice(shared), level, from - shared, signal)
  session.rewind(shared)
  return logprobs.reduce((sum, logprob) => sum + logprob, 0)
}

/** Tokens of context and choice together, the choice's from index `from` (at least 1). */
export interface EncodedPair {
  tokens: Int32Array
  from: number
}

/**
 * Context and choice as lm-eval's `_encode_pair` has them: blanks at the context's end go to the choice, the two
 * are encoded together, and the choice's tokens are those behind as many as the context alone has. A choice
 * that the tokenizer melts into the context has its last token still, and one that would stand first comes
 * after the begin token.
 */
export function encodePair(model: LoadedModel, context: string, choice: string): EncodedPair {
  const { tokenizer } = model
  const own = context.trimEnd()
  const whole = plainTokens(tokenizer, context + choice)
  const boundary = Math.min(plainTokens(tokenizer, own).length, whole.length - 1)
  if (tokenizer.addsBos || boundary < 1) {
    const begin = tokenizer.bosTokenId ?? model.config.bosTokenId ?? model.config.eosTokenIds[0]
    if (begin === undefined) {
      throw new FlrcError('E_USAGE', 'the context is empty and the model has no begin token; give a context')
    }
    return { tokens: Int32Array.of(begin, ...whole), from: boundary + 1 }
  }
  return { tokens: whole, from: boundary }
}

function plainTokens(tokenizer: Tokenizer, text: string): Int32Array {
  return tokenizer.encode(text, { addSpecial: false })
}

/**
 * What all pairs begin with, less the last token of the shortest context: that one is computed again with each
 * choice, because its logits give the choice's first token.
 */
function sharedPrefix(pairs: readonly EncodedPair[]): Int32Array {
  const [first] = pairs
  if (first === undefined) return new Int32Array()
  const most = Math.min(...pairs.map(({ from }) => from)) - 1
  const differing = first.tokens
    .subarray(0, most)
    .findIndex((token, index) => pairs.some(({ tokens }) => tokens[index] !== token))
  return first.tokens.slice(0, differing < 0 ? most : differing)
}

function likeliest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values))
}
