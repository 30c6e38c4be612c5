/** What rows are measured on. */
import type { Model, Schedule, SpeculateOptions } from 'flrc'
import { benchDecode } from '#lib/bench/decode.js'
import type { DialogueSample } from '#lib/data/dialogues.js'
import { checkReference, type ForcedRun, runForced } from '#lib/evaluate/forced.js'
import { dialoguePrompts, type Prompt, textPrompts } from '#lib/evaluate/prompts.js'
import { writeEach } from '#lib/evaluate/write.js'
import type { Completion } from '#lib/generate.js'
import { meanRouge, rouge } from '#lib/rouge.js'
import { meanOf } from '#lib/statistics/mean.js'
import type { SpeedRow } from './rows.js'
import { rounded, type Scores } from './scores.js'

export interface MeasureOptions {
  /** Tokens that schedules are fitted to, and of a continuation at most. */
  maxTokens: number
  /** Prompts of agreement: dialogues, or a text in windows. */
  prompts: readonly DialogueSample[] | string
  limit: number
  /** Samples of agreement and KL, at most `limit`: both cost more than writing, and vary less. */
  alongLimit: number
  /** What prompts are cut from whose speed is measured. */
  text: string
  dev: readonly DialogueSample[] | undefined
  /** Samples of the development set. */
  devLimit: number
  /** Tokens of prompts and of generations that speed is measured over, each with each. */
  speed: { prompts: readonly number[]; lengths: readonly number[]; rounds: number }
}

/** A sample as models are asked. */
export interface Asked extends Prompt {
  dialogue: string
  /** What people wrote of it; none where it is a window of text, of which nothing is written. */
  summaries: readonly string[]
}

/** The samples, in the order of their data. */
export async function askedOf(
  model: Model,
  { prompts, limit, maxTokens }: MeasureOptions,
  signal: AbortSignal,
): Promise<Asked[]> {
  if (typeof prompts === 'string') {
    const windows = textPrompts(model, prompts, { limit, maxTokens })
    return windows.map((prompt) => ({ ...prompt, dialogue: '', summaries: [] }))
  }
  const asked = await dialoguePrompts(model, prompts, { limit, maxTokens, signal })
  return asked.map((prompt, index) => {
    const { dialogue = '', summaries = [] } = prompts[index] ?? {}
    return { ...prompt, dialogue, summaries }
  })
}

export interface Scored {
  scores: Scores
  texts: string[]
}

/**
 * A model under each of the schedules: along the reference's tokens and, where people wrote summaries, in what it
 * writes itself. Prompts are read once for all schedules.
 *
 * @param expected what the dense model wrote, by sample; what the model itself writes where it is that
 * @param along whether to measure along the reference's tokens
 */
export async function scoresOf(
  { model, reference, expected }: { model: Model; reference: Model; expected?: ReadonlyMap<string, string> },
  asked: readonly Asked[],
  schedules: readonly (Schedule | undefined)[],
  { along, ...options }: { along: boolean; maxTokens: number; signal: AbortSignal },
): Promise<Scored[]> {
  checkReference(model, reference)
  const runs = along ? await runForced(model, reference, asked, schedules, options) : []
  const writes = asked.some(({ summaries }) => summaries.length > 0)
  const written = writes ? await writeEach(model, asked, schedules, options) : []
  const ids = asked.map(({ id }) => id)
  return schedules.map((_, index): Scored => {
    const read = runs.flatMap((ofPrompt) => ofPrompt[index] ?? [])
    const own = written.flatMap((ofPrompt) => ofPrompt[index] ?? [])
    const texts = own.map(({ text }) => text)
    const scores: Scores = {
      ids,
      ...(along && { along: alongScores(model, read) }),
      ...(writes && { written: { ...writtenScores(asked, texts, expected), spent: spentOn(model, own) } }),
    }
    return { scores, texts }
  })
}

/** What a model writes of each sample at level 0. */
export async function textsOf(
  model: Model,
  asked: readonly Asked[],
  options: { maxTokens: number; signal: AbortSignal },
): Promise<string[]> {
  const written = await writeEach(model, asked, [undefined], options)
  return written.flat().map(({ text }) => text)
}

function alongScores({ levels }: Model, runs: readonly ForcedRun[]): NonNullable<Scores['along']> {
  const budgets = runs.map((run) => run.levels.map((level) => levels[level]?.budget ?? 1))
  const agrees = runs.map((run) => run.agrees.map(Number))
  const divergences = runs.map((run) => run.kl)
  const means = (lists: readonly number[][]) => lists.map((list) => rounded(meanOf(list)))
  const steps = Array.from({ length: Math.max(...divergences.map((list) => list.length)) }, (_, step) => step)
  const sums = (lists: readonly number[][]) =>
    // Every sample is rounded, not their sum alone: then sums of parts add up to the sum of all.
    steps.map((step) => rounded(lists.reduce((sum, list) => sum + rounded(list[step] ?? 0), 0)))
  return {
    tokens: divergences.map((list) => list.length),
    ...{ kl: means(divergences), agreement: means(agrees), budget: means(budgets) },
    byStep: {
      samples: sums(divergences.map((list) => list.map(() => 1))),
      ...{ kl: sums(divergences), agreement: sums(agrees), budget: sums(budgets) },
    },
  }
}

/** ROUGE of a text for each sample; against the dense model's, or against itself where that is not given. */
export function writtenScores(
  asked: readonly Asked[],
  texts: readonly string[],
  expected?: ReadonlyMap<string, string>,
): NonNullable<Scores['written']> {
  const people = asked.map(({ summaries }, at) => meanRouge(summaries, texts[at] ?? ''))
  const dense = asked.map(({ id }, at) => rouge(expected?.get(id) ?? texts[at] ?? '', texts[at] ?? ''))
  const list = (scores: typeof people, name: keyof (typeof people)[number]) =>
    scores.map((score) => rounded(score[name]))
  return {
    people: { rouge1: list(people, 'rouge1'), rouge2: list(people, 'rouge2'), rougeL: list(people, 'rougeL') },
    dense: { rougeL: list(dense, 'rougeL') },
  }
}

function spentOn(
  { levels }: Model,
  written: readonly Completion[],
): NonNullable<NonNullable<Scores['written']>['spent']> {
  const means = (figure: 'budget' | 'bytesPerToken') =>
    written.map((one) =>
      one.levels.length > 0 ? rounded(meanOf(one.levels.map((level) => levels[level]?.[figure] ?? 0))) : 0,
    )
  return {
    tokens: written.map(({ tokenIds }) => tokenIds.length),
    budget: means('budget'),
    bytes: means('bytesPerToken').map(Math.round),
  }
}

export interface Runner {
  name: string
  model: Model
  /** In the command line's words. */
  text: string
  schedule?: Schedule
  speculate?: SpeculateOptions
}

/** Speeds of all runners, in turn within every round, for each length of prompt and of generation. */
export async function speedsOf(
  runners: readonly Runner[],
  { speed, text }: MeasureOptions,
  signal: AbortSignal,
): Promise<SpeedRow[][]> {
  const subjects = runners.map(({ text: scheduleName, ...runner }) => ({ ...runner, scheduleName }))
  const speeds: SpeedRow[][] = runners.map(() => [])
  for (const promptTokens of speed.prompts) {
    for (const tokens of speed.lengths) {
      const { rows } = await benchDecode(subjects, { promptTokens, tokens, rounds: speed.rounds, text, signal })
      for (const [index, { name: _name, dtype: _dtype, schedule: _schedule, ...figures }] of rows.entries()) {
        speeds[index]?.push({ promptTokens, tokens, ...figures })
      }
    }
  }
  return speeds
}
