import { checkObject, checkWhole } from '../check.js'
import type { DialogueSample } from '../data/dialogues.js'
import { checkOptions } from '../generate/options.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import type { ScheduleChoice } from '../schedule.js'
import { bootstrapMean } from '../statistics/bootstrap.js'
import { meanOf } from '../statistics/mean.js'
import { checkReference, type ForcedRun, runForced } from './forced.js'
import { checkPrompt, dialoguePrompts, textPrompts } from './prompts.js'

export interface AgreementOptions extends TaskOptions {
  /** Samples to measure, from the first; all by default. */
  limit?: number
  /** Tokens after each prompt at most; 60 by default. */
  maxTokens?: number
  /** The active budget of each step; level 0 throughout by default. */
  schedule?: ScheduleChoice
  /** Names a plain text in errors. */
  name?: string
}

/** One step after the prompt, over the samples whose continuation reaches it. */
export interface AgreementStep {
  /** Counted from 0, the token that comes from prefill. */
  step: number
  /** Share of the samples in which both models hold the same token the likeliest. */
  agreement: number
  /** Mean KL(reference || model), nats. */
  kl: number
  /** Mean active budget of the model's passes. */
  activeBudget: number
  samples: number
}

export interface AgreementResult {
  /** Share of the reference's greedy tokens that the model holds the likeliest too. */
  agreement: number
  /** Mean KL(reference || model) over those tokens, nats. */
  meanKl: number
  byStep: AgreementStep[]
  /** Mean active budget of the model's passes over those tokens. */
  meanActiveBudget: number
  /** Tokens compared. */
  tokens: number
  samples: number
  /** 95% bootstrap intervals over samples, [low, high], seeded. */
  intervals: { agreement: [number, number]; meanKl: [number, number] }
}

/**
 * How a model departs from a reference, step by step after the prompt: the reference (the dense model, say)
 * continues every prompt greedily up to its end token, and the model reads along, at the level that its schedule
 * gives each step. Both read the reference's tokens (teacher forcing), so that steps stay comparable, however
 * early the model would have gone its own way; the end token is the last that is compared.
 *
 * @param samples dialogues, asked as `summarize` does it, or chats, asked for the answer that follows; or a text,
 * whose prompts are windows of 128 tokens one after another
 *
 * Errors: E_USAGE for samples or options that cannot be used, or a reference of another vocabulary; E_CONTEXT where
 * a sample is too long; E_CHAT_TEMPLATE; E_NUMERIC; E_ABORTED.
 */
export async function agreement(
  model: LoadedModel,
  reference: LoadedModel,
  samples: readonly DialogueSample[] | string,
  options: AgreementOptions = {},
): Promise<AgreementResult> {
  checkObject('the fourth argument', options, 'options, such as { maxTokens: 64 }')
  const { limit, maxTokens = 60, schedule, name, signal, onProgress } = options
  checkWhole('maxTokens', maxTokens, 1)
  checkReference(model, reference)
  const checked = checkOptions({ maxTokens, schedule }, model)
  const prompts =
    typeof samples === 'string'
      ? textPrompts(model, samples, { limit, maxTokens, name })
      : await dialoguePrompts(model, samples, { limit, maxTokens, signal })
  for (const prompt of prompts) checkPrompt(reference, prompt, maxTokens)
  const runs = await runForced(model, reference, prompts, [checked.schedule], {
    ...{ maxTokens, signal },
    onDone: (done) => onProgress?.({ stage: 'agreement', done, total: prompts.length }),
  })
  return agreementOf(model, runs.flat())
}

/** The figures of runs, one a sample. */
export function agreementOf(
  { levels }: Pick<LoadedModel, 'levels'>,
  runs: readonly ForcedRun[],
): AgreementResult {
  const budgets = runs.map((run) => run.levels.map((level) => levels[level]?.budget ?? 1))
  const shares = runs.map((run) => run.agrees.map(Number))
  const divergences = runs.map((run) => run.kl)
  const weights = runs.map((run) => run.kl.length)
  const tokens = weights.reduce((sum, count) => sum + count, 0)
  const overTokens = (values: readonly number[][]) => bootstrapMean(values.map(meanOf), { weights })
  const [agreed, kl] = [overTokens(shares), overTokens(divergences)]
  const byStep = Array.from({ length: Math.max(...weights) }, (_, step): AgreementStep => {
    const at = (values: readonly number[][]) => values.flatMap((list) => list.slice(step, step + 1))
    return {
      step,
      agreement: meanOf(at(shares)),
      kl: meanOf(at(divergences)),
      activeBudget: meanOf(at(budgets)),
      samples: at(shares).length,
    }
  })
  return {
    agreement: agreed.mean,
    meanKl: kl.mean,
    byStep,
    meanActiveBudget: meanOf(budgets.flat()),
    tokens,
    samples: runs.length,
    intervals: { agreement: agreed.interval, meanKl: kl.interval },
  }
}
