import { checkObject, checkRange, checkWhole } from './check.js'
import type { DialogueSample } from './data/dialogues.js'
import { FlrcError } from './errors.js'
import { agreementOf } from './evaluate/agreement.js'
import { checkReference, type ForcedOptions, runForced } from './evaluate/forced.js'
import { levelTraces } from './evaluate/level-traces.js'
import { checkPrompt, dialoguePrompts, type Prompt } from './evaluate/prompts.js'
import { writeEach } from './evaluate/write.js'
import { levelBudget } from './generate/steps.js'
import { checkModel, type LoadedModel, type TaskOptions } from './model.js'
import { meanRouge } from './rouge.js'
import { adaptiveCandidates } from './schedule/adaptive-search.js'
import {
  curvesOf,
  measureDownTo,
  measureWithin,
  type Predicted,
  paretoFront,
  predictedCost,
  scheduleCandidates,
} from './schedule/search.js'
import { tolerance } from './schedule/types.js'
import { parseSchedule } from './schedule.js'
import { pairedDifference } from './statistics/bootstrap.js'
import { meanOf } from './statistics/mean.js'

/** What a schedule is chosen for: one of the two. */
export interface ScheduleGoal {
  /** The mean active budget that it may have, in (0, 1]; the schedule that loses least within it is chosen. */
  budget?: number
  /**
   * How far mean ROUGE-L, on its scale from 0 to 1, may fall below that of level 0; the schedule that reads least is
   * chosen. Every sample must have a summary.
   */
  rougeLoss?: number
}

export interface CalibrateScheduleOptions extends ScheduleGoal, TaskOptions {
  /** The model to stay close to, such as the dense one; level 0 of the model itself by default. */
  reference?: LoadedModel
  /** Samples to choose by, from the first; all by default. */
  limit?: number
  /** Tokens after each prompt at most; 60 by default. */
  maxTokens?: number
}

/** A schedule as it was measured on all samples. */
export interface MeasuredSchedule {
  /** In the command line's words. */
  schedule: string
  /** Mean active budget over all tokens that the model writes under it itself. */
  budget: number
  /** Mean KL(reference || model), nats. */
  kl: number
  /** 95% bootstrap interval of `kl` over samples, [low, high], seeded. */
  interval: [number, number]
  /** Share of the reference's tokens that the model holds the likeliest too. */
  agreement: number
  /** What the levels' losses had predicted for `kl`. */
  predictedKl: number
  /** Mean ROUGE-L of what it writes, where every sample has a summary. */
  rougeL?: number
  /** How far `rougeL` lies below level 0's, and its 95% interval, paired; where the goal is `rougeLoss`. */
  rougeLoss?: number
  rougeLossInterval?: [number, number]
}

export interface CalibratedSchedule {
  /** The one of the least KL within the budget, or of the least budget within the loss of ROUGE-L. */
  schedule: string
  /**
   * Measured schedules that no other beats in budget and KL (ROUGE-L, where the goal is `rougeLoss`), by rising
   * budget; the chosen one is among them.
   */
  frontier: MeasuredSchedule[]
  /** Per level its budget, and by step the mean KL where that level is kept from step 1 on. */
  levels: { budget: number; kl: number[] }[]
  /** How many different schedules were compared. */
  candidates: number
  samples: number
  /** Tokens of the reference, which the losses are means over. */
  tokens: number
}

/**
 * Chooses the schedule that stays closest to the reference within a mean active budget, or the cheapest whose texts
 * lose no more ROUGE-L than is allowed, of the families constant, step, linear, cosine, exponential and adaptive
 * between the model's levels. The model reads along the reference's own greedy tokens (see `evaluate.agreement`),
 * once at every level: the losses by level and step predict each schedule's by adding up, and the entropies the
 * levels that an adaptive one would take. The best of them, and some along the frontier, are then run: along the
 * reference's tokens for their losses, and freely for their texts and the budgets that those really spend.
 *
 * Errors: E_USAGE for a goal that is not one of the two, a model of one level, samples, options or a budget that no
 * schedule reaches, or a reference of another vocabulary; E_CONTEXT, E_CHAT_TEMPLATE, E_NUMERIC, E_ABORTED.
 */
export async function calibrateSchedule(
  model: LoadedModel,
  samples: readonly DialogueSample[],
  options: CalibrateScheduleOptions,
): Promise<CalibratedSchedule> {
  checkModel(model)
  checkObject('the third argument', options, 'options, such as { budget: 0.8 }')
  const { rougeLoss, reference = model, limit, maxTokens = 60, signal } = options
  checkGoal(options)
  checkWhole('maxTokens', maxTokens, 1)
  checkLevels(model)
  checkReference(model, reference)
  const prompts = await dialoguePrompts(model, samples, { limit, maxTokens, signal })
  for (const prompt of prompts) checkPrompt(reference, prompt, maxTokens)
  const asked = prompts.map((prompt, index) => ({ ...prompt, summaries: samples[index]?.summaries ?? [] }))
  if (rougeLoss !== undefined) checkSummaries(asked)

  const traces = await levelTraces(model, reference, prompts, forcedOptions(options, prompts, 'levels'))
  const curves = curvesOf(model.levels, traces)
  const candidates = [
    ...scheduleCandidates(model.levels, model.keep, curves.samples.length).map((candidate) => ({
      schedule: candidate.schedule,
      ...predictedCost(candidate, curves),
    })),
    ...adaptiveCandidates(model.levels, model.keep, traces),
  ]
  const measure = (chosen: readonly Predicted[]) => measureSchedules(model, reference, asked, chosen, options)
  const { winner, frontier } = await choose(candidates, options, measure)
  return {
    schedule: winner.schedule,
    frontier: frontier.map(({ scores, ...point }) => point),
    levels: curves.levels.map((level, index) => ({ budget: level.budget, kl: [...(curves.kl[index] ?? [])] })),
    candidates: candidates.length,
    samples: prompts.length,
    tokens: curves.samples.reduce((sum, count) => sum + count, 0),
  }
}

/** E_USAGE unless exactly one goal is given, in its range. */
export function checkGoal({ budget, rougeLoss }: ScheduleGoal): void {
  if ((budget === undefined) === (rougeLoss === undefined)) {
    throw new FlrcError(
      'E_USAGE',
      'a schedule is chosen for a mean active budget (--budget, budget) or for a loss of ROUGE-L (--rouge-loss, ' +
        'rougeLoss); give one of the two',
    )
  }
  if (budget !== undefined) {
    checkRange('budget', budget, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  } else {
    checkRange('rougeLoss', rougeLoss, 0, 1, 'a number from 0 to 1, on the scale of ROUGE-L')
  }
}

function checkSummaries(asked: readonly Asked[]): void {
  const bare = asked.find(({ summaries }) => summaries.length === 0)
  if (bare === undefined) return
  throw new FlrcError(
    'E_USAGE',
    `sample ${bare.id} has no summary, which ROUGE-L is measured against; give samples with summaries, or a budget`,
  )
}

interface Choice {
  winner: MeasuredTexts
  frontier: MeasuredTexts[]
}

async function choose(
  candidates: readonly Predicted[],
  { budget = 1, rougeLoss }: ScheduleGoal,
  measure: (chosen: readonly Predicted[]) => Promise<MeasuredTexts[]>,
): Promise<Choice> {
  if (rougeLoss !== undefined) return cheapestWithinLoss(candidates, rougeLoss, measure)
  const least = Math.min(...candidates.map((cost) => cost.budget))
  if (least > budget + tolerance) throw unreachable(budget, least)
  const frontier = paretoFront(await measureWithin(candidates, budget, measure))
  const winner = frontier.filter((point) => point.budget <= budget + tolerance).at(-1)
  if (winner === undefined) throw unreachable(budget, frontier[0]?.budget ?? 1)
  return { winner, frontier }
}

async function cheapestWithinLoss(
  candidates: readonly Predicted[],
  most: number,
  measure: (chosen: readonly Predicted[]) => Promise<MeasuredTexts[]>,
): Promise<Choice> {
  // Level 0 loses nothing against itself, so there is always one.
  const cheapest = (points: readonly MeasuredTexts[]) =>
    points
      .filter(({ rougeLoss = 0 }) => rougeLoss <= most + tolerance)
      .reduce((best, point) => (point.budget < best.budget ? point : best))
  let whole: MeasuredTexts | undefined
  const measured = await measureDownTo(candidates, cheapest, async (chosen) => {
    const points = await measure(chosen)
    whole ??= points.find(({ schedule }) => schedule === 'full')
    return points.map((point) => ({ ...point, ...lossOf(point, whole) }))
  })
  const frontier = paretoFront(measured, ({ rougeLoss = 0 }) => rougeLoss)
  return { winner: cheapest(frontier), frontier }
}

function lossOf(
  point: MeasuredTexts,
  whole: MeasuredTexts | undefined,
): Pick<MeasuredSchedule, 'rougeLoss' | 'rougeLossInterval'> {
  if (whole === undefined) return {}
  const { mean, interval } = pairedDifference(whole.scores, point.scores)
  return { rougeLoss: mean, rougeLossInterval: interval }
}

function unreachable(budget: number, least: number): FlrcError {
  return new FlrcError(
    'E_USAGE',
    `no schedule of this model reaches a mean active budget of ${budget} (its lowest: ${least.toFixed(4)}, the first ` +
      'token of each text at level 0); give a larger budget, or compress with lower --levels',
  )
}

/** E_USAGE for a model that has nothing to choose from. */
export function checkLevels(model: LoadedModel): void {
  if (model.levels.length > 1) return
  const { path } = model.source
  throw new FlrcError(
    'E_USAGE',
    `${path}: the model has one level, so every schedule is the same; make levels with flrc compress --levels`,
    { file: path },
  )
}

/** A prompt, and what people answered. */
interface Asked extends Prompt {
  summaries: readonly string[]
}

/** With ROUGE-L by sample, where there are summaries. */
interface MeasuredTexts extends MeasuredSchedule {
  scores: number[]
}

async function measureSchedules(
  model: LoadedModel,
  reference: LoadedModel,
  asked: readonly Asked[],
  chosen: readonly Predicted[],
  options: CalibrateScheduleOptions,
): Promise<MeasuredTexts[]> {
  const { maxTokens = 60, signal, onProgress } = options
  const schedules = chosen.map(({ schedule }) => parseSchedule(schedule))
  const read = await runForced(model, reference, asked, schedules, forcedOptions(options, asked, 'schedules'))
  const written = await writeEach(model, asked, schedules, {
    ...{ maxTokens, signal },
    onDone: (done) => onProgress?.({ stage: 'texts', done, total: asked.length }),
  })
  const scored = asked.every(({ summaries }) => summaries.length > 0)
  return chosen.map(({ schedule, kl: predictedKl }, index) => {
    const own = written.flatMap((ofPrompt) => ofPrompt[index] ?? [])
    const levels = own.flatMap((completion) => completion.levels)
    const scores = scored
      ? own.map(({ text }, prompt) => meanRouge(asked[prompt]?.summaries ?? [], text).rougeL)
      : []
    const { meanKl, intervals, agreement } = agreementOf(
      model,
      read.flatMap((ofPrompt) => ofPrompt[index] ?? []),
    )
    return {
      ...{ schedule, kl: meanKl, interval: intervals.meanKl, agreement, predictedKl },
      budget: levels.length > 0 ? meanOf(levels.map((level) => levelBudget(model, level))) : 0,
      ...(scored ? { rougeL: meanOf(scores) } : {}),
      scores,
    }
  })
}

function forcedOptions(
  { maxTokens = 60, signal, onProgress }: CalibrateScheduleOptions,
  { length: total }: readonly Prompt[],
  stage: string,
): ForcedOptions {
  return { maxTokens, signal, onDone: (done) => onProgress?.({ stage, done, total }) }
}
