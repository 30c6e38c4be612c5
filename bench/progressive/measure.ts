/** What rows are measured on. */
import { calibrateSchedule, constant, evaluate, type Model, type Schedule, type SpeculateOptions } from 'flrc'
import { benchDecode } from '#lib/bench/decode.js'
import type { DialogueSample } from '#lib/data/dialogues.js'
import { FlrcError } from '#lib/errors.js'
import { adaptive, parseSchedule } from '#lib/schedule.js'
import type { Bench } from '../quality/make.js'
import { summaryScores } from '../quality/summaries.js'
import type { Quality, Row, RowPlan, SpeedRow } from './rows.js'
import { fittedSchedule, reversed } from './schedules.js'

export interface MeasureOptions {
  /** Tokens that schedules are fitted to, and of a continuation at most. */
  maxTokens: number
  /** Prompts of agreement: dialogues, or a text in windows. */
  prompts: readonly DialogueSample[] | string
  limit: number
  /** What prompts are cut from whose speed is measured. */
  text: string
  dev: readonly DialogueSample[] | undefined
  /** Tokens of prompts and of generations that speed is measured over, each with each. */
  speed: { prompts: readonly number[]; lengths: readonly number[]; rounds: number }
}

/** A row's schedule on its model. */
export interface Falling {
  text: string
  schedule?: Schedule
  speculate?: SpeculateOptions
}

/** Drafts of a round at most; how many are made follows from how many are accepted. */
const drafts = 8

/** E_USAGE where no schedule of the family has the wanted mean. */
export async function fallOf(
  { fall, budget = 1, model: spec }: RowPlan,
  model: Model,
  { maxTokens: steps, dev = [], limit }: MeasureOptions,
  signal: AbortSignal,
): Promise<Falling> {
  const { levels, keep } = model
  const named = (text: string): Falling => ({ text, schedule: parseSchedule(text) })
  const fitted = (family: 'step' | 'linear' | 'cosine' | 'exponential') => {
    const candidate = fittedSchedule(family, levels, { budget, keep, steps })
    if (candidate !== undefined) return candidate
    throw new FlrcError('E_USAGE', `no ${family} schedule over ${steps} steps has a mean of at most ${budget}`)
  }
  switch (fall.kind) {
    case 'full':
      return { text: 'full' }
    case 'constant':
      return { text: `constant:${budget}`, schedule: constant(budget) }
    case 'fitted':
      return named(fitted(fall.family).schedule)
    case 'reversed': {
      const candidate = fitted('step')
      return { text: `${candidate.schedule}, reversed`, schedule: reversed(candidate, levels) }
    }
    case 'adaptive': {
      const [to = budget] = levels.slice(-1).map((level) => level.budget)
      const from = spec.kind === 'low-rank' ? spec.keep : keep
      return { text: `adaptive:${from}:${to.toFixed(4)}`, schedule: adaptive({ from, to }) }
    }
    case 'speculative': {
      const [budget = 1] = levels.slice(-1).map((level) => level.budget)
      return { text: `speculate ${drafts}:${budget.toFixed(4)}`, speculate: { tokens: drafts, budget } }
    }
    case 'calibrated': {
      const chosen = await calibrateSchedule(model, dev, { budget, limit, maxTokens: steps, signal })
      return named(chosen.schedule)
    }
  }
}

export async function qualityOf(
  model: Model,
  reference: Model,
  schedule: Schedule | undefined,
  bench: Bench,
  { prompts, limit, maxTokens }: MeasureOptions,
): Promise<Pick<Row, 'quality' | 'summaries'>> {
  const options = { limit, maxTokens, schedule, signal: bench.signal }
  const { tokens: _, ...found } = await evaluate.agreement(model, reference, prompts, options)
  const quality: Quality = found
  if (bench.inputs.summaries === undefined) return { quality }
  return { quality, summaries: await summaryScores(model, bench, schedule) }
}

export interface Runner extends Falling {
  name: string
  model: Model
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
