import { checkObject } from '../check.js'
import type { DialogueSample } from '../data/dialogues.js'
import { FlrcError } from '../errors.js'
import { checkModel, type LoadedModel, type TaskOptions } from '../model.js'
import { meanRouge, meanScores, type RougeScores, rouge } from '../rouge.js'
import type { ScheduleChoice } from '../schedule.js'
import { bootstrapMean, type Estimate } from '../statistics/bootstrap.js'
import { chatPrompts, summaryRequest } from './prompts.js'
import { firstSamples, sampleName } from './samples.js'
import { writeEach } from './write.js'

/** A text to compare with, by the name of its sample; an output of an earlier `summarize` is one. */
export interface SummaryReference {
  id: string
  text: string
}

export interface SummarizeOptions extends TaskOptions {
  /** Samples to measure, from the first; all by default. */
  limit?: number
  /** Tokens of a summary at most; 60 by default. */
  maxTokens?: number
  /** The active budget of each step; level 0 throughout by default. */
  schedule?: ScheduleChoice
  /** Texts to score against besides people's, such as the outputs of the dense model. */
  reference?: readonly SummaryReference[]
}

/** What the model wrote of one sample. Scores are means over the sample's references. */
export interface SummaryOutput extends RougeScores {
  /** The sample's own, or its place counted from 1. */
  id: string
  text: string
  /** Tokens generated. */
  tokens: number
  /** Per token the level of the pass that produced it; only where a schedule was given. */
  levels?: number[]
  /** Scores against the text of `reference`. */
  reference?: RougeScores
}

/** 95% bootstrap intervals of the means, [low, high], seeded. */
export type RougeIntervals = Record<keyof RougeScores, [number, number]>

/** Means over the samples. */
export interface SummarizeResult extends RougeScores {
  /** Mean over all generated tokens of the active budget of their pass; 0 where none were generated. */
  meanActiveBudget: number
  /** Mean over all generated tokens of the weight bytes read by their pass; 0 where none were generated. */
  bytesPerToken: number
  samples: number
  intervals: RougeIntervals
  /** The means against the texts of `reference`. */
  reference?: RougeScores & { intervals: RougeIntervals }
  outputs: SummaryOutput[]
}

/**
 * Has the model summarise dialogues and scores the texts against people's (design 8): its chat template with
 * its own system prompt, greedy decoding up to the end token. Up to 16 dialogues are decoded side by side, each to
 * what it would give alone. Errors: E_USAGE for a sample without dialogue or summary, a reference that lacks one, or
 * an unusable option; E_CHAT_TEMPLATE where the model has none; E_CONTEXT where a dialogue is too long; E_ABORTED.
 */
export async function summarize(
  model: LoadedModel,
  samples: readonly DialogueSample[],
  options: SummarizeOptions = {},
): Promise<SummarizeResult> {
  checkModel(model)
  checkObject('the third argument', options, 'options, such as { limit: 50 }')
  const { limit, maxTokens = 60, schedule, reference, signal, onProgress } = options
  const chosen = firstSamples(samples, limit).map(checkedSample)
  const referenceTexts = reference && byId(reference, chosen)
  const chats = chosen.map(({ id, dialogue }) => ({ id, messages: summaryRequest(dialogue) }))
  const prompts = await chatPrompts(model, chats, { maxTokens, signal })
  const completions = await writeEach(model, prompts, [schedule], {
    ...{ maxTokens, signal },
    onDone: (done) => onProgress?.({ stage: 'summarize', done, total: chosen.length }),
  })
  const written = completions.flat()
  const outputs = chosen.map(({ id, summaries }, index): SummaryOutput => {
    const { text = '', tokenIds = [], levels = [] } = written[index] ?? {}
    const expected = referenceTexts?.get(id)
    return {
      id,
      text,
      tokens: tokenIds.length,
      ...meanRouge(summaries, text),
      ...(schedule && { levels }),
      ...(expected !== undefined && { reference: rouge(expected, text) }),
    }
  })
  const levels = written.flatMap((completion) => completion.levels)
  const perToken = (figure: 'budget' | 'bytesPerToken') =>
    levels.reduce((sum, level) => sum + (model.levels[level]?.[figure] ?? 0), 0) / Math.max(1, levels.length)
  const against = outputs.map((output) => output.reference).filter((scores) => scores !== undefined)
  return {
    ...meanScores(outputs),
    meanActiveBudget: perToken('budget'),
    bytesPerToken: perToken('bytesPerToken'),
    samples: outputs.length,
    intervals: intervalsOf(outputs),
    ...(reference && { reference: { ...meanScores(against), intervals: intervalsOf(against) } }),
    outputs,
  }
}

function checkedSample(sample: DialogueSample, index: number) {
  const id = sampleName(sample, index)
  const { dialogue, summaries } = sample
  if (dialogue === undefined || summaries === undefined || summaries.length === 0) {
    throw new FlrcError(
      'E_USAGE',
      `sample ${id} has no ${dialogue === undefined ? 'dialogue' : 'summary'}; give samples with a dialogue and at least one summary`,
    )
  }
  return { id, dialogue, summaries }
}

/** The reference texts by sample, one for each of `samples`. */
function byId(
  reference: readonly SummaryReference[],
  samples: readonly { id: string }[],
): ReadonlyMap<string, string> {
  const texts = new Map(reference.map(({ id, text }) => [id, text]))
  const missing = samples.find(({ id }) => !texts.has(id))
  if (missing !== undefined || texts.size < reference.length) {
    const problem = missing === undefined ? 'names a sample twice' : `has no text for sample ${missing.id}`
    throw new FlrcError('E_USAGE', `the reference ${problem}; write it with the same data and limit`)
  }
  return texts
}

function intervalsOf(scores: readonly RougeScores[]): RougeIntervals {
  const interval = (key: keyof RougeScores): Estimate['interval'] =>
    bootstrapMean(scores.map((score) => score[key])).interval
  return { rouge1: interval('rouge1'), rouge2: interval('rouge2'), rougeL: interval('rougeL') }
}
