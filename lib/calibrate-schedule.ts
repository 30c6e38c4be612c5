import { checkRange, checkWhole } from './check.js'
import type { DialogueSample } from './data/dialogues.js'
import { FlrcError } from './errors.js'
import { agreementOf } from './evaluate/agreement.js'
import { checkReference, type ForcedRun, runForced } from './evaluate/forced.js'
import { checkPrompt, dialoguePrompts, type Prompt } from './evaluate/prompts.js'
import { writeEach } from './evaluate/write.js'
import { levelBudget } from './generate/steps.js'
import type { LoadedModel, TaskOptions } from './model.js'
import { meanRouge } from './rouge.js'
import {
  type Candidate,
  type LevelCurves,
  measureWithin,
  paretoFront,
  predictedCost,
  type ScheduleCost,
  scheduleCandidates,
} from './schedule/search.js'
import { tolerance } from './schedule/types.js'
import { parseSchedule } from './schedule.js'
import { meanOf } from './statistics/mean.js'

export interface CalibrateScheduleOptions extends TaskOptions {
  /** The mean active budget that the schedule may have, in (0, 1]. */
  budget: number
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
  /** What the levels' curves had predicted for `kl`. */
  predictedKl: number
  /** Mean ROUGE-L of what it writes, where every sample has a summary. */
  rougeL?: number
}

export interface CalibratedSchedule {
  /** The one of the least loss within the budget. */
  schedule: string
  /** Measured schedules that no other beats in budget and loss, by rising budget; the chosen one is among them. */
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
 * Chooses the schedule that stays closest to the reference within a mean active budget, of the families constant,
 * step, linear, cosine and exponential between the model's levels. The model reads along the reference's own
 * greedy tokens (see `evaluate.agreement`), once at every level: the losses by level and step predict each
 * schedule's by adding up. The best of them, and some along the frontier, are then run: along the reference's tokens
 * for their losses, and freely for the budgets that they really spend.
 *
 * Errors: E_USAGE for a model of one level, samples, options or a budget that no schedule reaches, or a reference
 * of another vocabulary; E_CONTEXT, E_CHAT_TEMPLATE, E_NUMERIC, E_ABORTED.
 */
export async function calibrateSchedule(
  model: LoadedModel,
  samples: readonly DialogueSample[],
  options: CalibrateScheduleOptions,
): Promise<CalibratedSchedule> {
  const { budget, reference = model, limit, maxTokens = 60, signal } = options
  checkRange('budget', budget, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  checkWhole('maxTokens', maxTokens, 1)
  checkLevels(model)
  checkReference(model, reference)
  const prompts = await dialoguePrompts(model, samples, { limit, maxTokens, signal })
  for (const prompt of prompts) checkPrompt(reference, prompt, maxTokens)
  const asked = prompts.map((prompt, index) => ({ ...prompt, summaries: samples[index]?.summaries ?? [] }))

  const curves = await measureLevels(model, reference, prompts, options)
  const candidates = scheduleCandidates(model.levels, model.keep, curves.samples.length)
  const costs = candidates.map((candidate) => ({ ...candidate, ...predictedCost(candidate, curves) }))
  const least = Math.min(...costs.map((cost) => cost.budget))
  if (least > budget + tolerance) throw unreachable(budget, least)
  const frontier = paretoFront(
    await measureWithin(costs, budget, (chosen) => measureSchedules(model, reference, asked, chosen, options)),
  )
  const winner = frontier.filter((point) => point.budget <= budget + tolerance).at(-1)
  if (winner === undefined) throw unreachable(budget, frontier[0]?.budget ?? 1)
  return {
    schedule: winner.schedule,
    frontier,
    levels: curves.levels.map((level, index) => ({ budget: level.budget, kl: [...(curves.kl[index] ?? [])] })),
    candidates: candidates.length,
    samples: prompts.length,
    tokens: curves.samples.reduce((sum, count) => sum + count, 0),
  }
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

async function measureLevels(
  model: LoadedModel,
  reference: LoadedModel,
  prompts: readonly Prompt[],
  options: CalibrateScheduleOptions,
): Promise<LevelCurves> {
  const schedules = model.levels.map(
    ({ budget }) =>
      () =>
        budget,
  )
  const runs = await forced(model, reference, prompts, schedules, options, 'levels')
  const lengths = runs.map(([run]) => run?.kl.length ?? 0)
  const steps = Array.from({ length: Math.max(...lengths) }, (_, step) => step)
  const at = (level: number, step: number) =>
    runs.flatMap((ofPrompt) => ofPrompt[level]?.kl.slice(step, step + 1) ?? [])
  return {
    levels: model.levels,
    kl: model.levels.map((_, level) => steps.map((step) => meanOf(at(level, step)))),
    samples: steps.map((step) => at(0, step).length),
  }
}

/** A prompt, and what people answered. */
interface Asked extends Prompt {
  summaries: readonly string[]
}

async function measureSchedules(
  model: LoadedModel,
  reference: LoadedModel,
  asked: readonly Asked[],
  chosen: readonly (Candidate & ScheduleCost)[],
  options: CalibrateScheduleOptions,
): Promise<MeasuredSchedule[]> {
  const { maxTokens = 60, signal, onProgress } = options
  const schedules = chosen.map(({ schedule }) => parseSchedule(schedule))
  const read = await forced(model, reference, asked, schedules, options, 'schedules')
  const written = await writeEach(model, asked, schedules, {
    ...{ maxTokens, signal },
    onDone: (done) => onProgress?.({ stage: 'texts', done, total: asked.length }),
  })
  const scored = asked.every(({ summaries }) => summaries.length > 0)
  return chosen.map(({ schedule, kl: predictedKl }, index) => {
    const own = written.flatMap((ofPrompt) => ofPrompt[index] ?? [])
    const levels = own.flatMap((completion) => completion.levels)
    const scores = own.map(({ text }, prompt) => meanRouge(asked[prompt]?.summaries ?? [], text).rougeL)
    const { meanKl, intervals, agreement } = agreementOf(
      model,
      read.flatMap((ofPrompt) => ofPrompt[index] ?? []),
    )
    return {
      ...{ schedule, kl: meanKl, interval: intervals.meanKl, agreement, predictedKl },
      budget: levels.length > 0 ? meanOf(levels.map((level) => levelBudget(model, level))) : 0,
      ...(scored ? { rougeL: meanOf(scores) } : {}),
    }
  })
}

function forced(
  model: LoadedModel,
  reference: LoadedModel,
  prompts: readonly Prompt[],
  schedules: Parameters<typeof runForced>[3],
  { maxTokens = 60, signal, onProgress }: CalibrateScheduleOptions,
  stage: string,
): Promise<ForcedRun[][]> {
  const total = prompts.length
  const onDone = (done: number) => onProgress?.({ stage, done, total })
  return runForced(model, reference, prompts, schedules, { maxTokens, signal, onDone })
}
