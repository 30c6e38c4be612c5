/** From how a row's level is to fall to the schedule that spends the wanted budget, fitted on the development set. */
import { calibrateSchedule, constant, type Model, type Schedule } from 'flrc'
import type { DialogueSample } from '#lib/data/dialogues.js'
import { FlrcError } from '#lib/errors.js'
import { levelTraces } from '#lib/evaluate/level-traces.js'
import { dialoguePrompts, type Prompt } from '#lib/evaluate/prompts.js'
import { writeEach } from '#lib/evaluate/write.js'
import type { Completion } from '#lib/generate.js'
import { adaptiveCandidates } from '#lib/schedule/adaptive-search.js'
import { bestWithin, budgetName, type Candidate, type LevelTrace, measureWithin } from '#lib/schedule/search.js'
import { parseSchedule } from '#lib/schedule.js'
import { meanOf } from '#lib/statistics/mean.js'
import type { RowPlan } from './rows.js'
import { evenly, families, fittedSchedule, type Reached } from './schedules.js'

export interface FitOptions {
  /** Tokens of a text at most. */
  maxTokens: number
  /** Dialogues to fit on; without them texts are taken to have `maxTokens` tokens each. */
  dev: readonly DialogueSample[] | undefined
  devLimit: number
  signal: AbortSignal
}

/** Drafts of a round at most; how many are made follows from how many are accepted. */
export const drafts = 8

/** Fits the rows of one model; what it writes of the development set is written once. */
export class Fitting {
  readonly #model: Model
  readonly #reference: Model
  readonly #options: FitOptions
  #prompts: Promise<Prompt[]> | undefined
  #traces: Promise<LevelTrace[]> | undefined
  /** By budget. */
  readonly #fits = new Map<number, Promise<Map<string, Candidate>>>()

  /** @param reference the dense model, which calibrated schedules are to stay close to */
  constructor(model: Model, reference: Model, options: FitOptions) {
    this.#model = model
    this.#reference = reference
    this.#options = options
  }

  /** The row's schedule in the command line's words. E_USAGE where none of its kind has the wanted mean. */
  async scheduleOf({ fall, budget = 1 }: RowPlan): Promise<string> {
    switch (fall.kind) {
      case 'full':
        return 'full'
      case 'speculative':
        return `speculate ${drafts}:${this.#lowest()}`
      case 'constant':
        return `constant:${budget}`
      case 'fitted':
      case 'reversed': {
        const name = fall.kind === 'fitted' ? fall.family : fall.kind
        const fits = this.#fits.get(budget) ?? this.#fit(budget)
        this.#fits.set(budget, fits)
        const fitted = (await fits).get(name)
        if (fitted !== undefined) return fitted.schedule
        throw new FlrcError('E_USAGE', `no ${name} schedule of this model has a mean of at most ${budget}`)
      }
      case 'adaptive':
        return this.#adaptive(budget)
      case 'calibrated': {
        const { dev = [], devLimit: limit, maxTokens, signal } = this.#options
        const reference = this.#reference
        const options = { budget, reference, limit, maxTokens, signal }
        return (await calibrateSchedule(this.#model, dev, options)).schedule
      }
    }
  }

  #lowest(): string {
    const { levels, keep } = this.#model
    return budgetName(levels.length - 1, levels, keep)
  }

  /**
   * Schedules of every shape by name, without those of which none has the wanted mean. How long texts are depends on
   * the schedule they are written under, so shapes are fitted to texts at the budget's level first, and then each to
   * those it wrote itself.
   */
  async #fit(budget: number): Promise<Map<string, Candidate>> {
    const { levels, keep } = this.#model
    // Between two levels every shape is a step.
    const falling = (levels.length > 2 ? families : ['step' as const]).map((family) => ({
      name: family,
      family,
    }))
    const shapes = [...falling, { name: 'reversed', family: 'step' as const, rising: true }]
    const fitTo = (reachedOf: (name: string) => Reached) =>
      new Map(
        shapes.flatMap(({ name, family, ...shape }): [string, Candidate][] => {
          const wanted = { budget, keep, reached: reachedOf(name), ...shape }
          const fitted = fittedSchedule(family, levels, wanted)
          return fitted === undefined ? [] : [[name, fitted]]
        }),
      )
    const { dev, maxTokens } = this.#options
    if (dev === undefined) return fitTo(() => evenly(maxTokens))
    const [atBudget = evenly(maxTokens)] = await this.#reached([constant(budget)])
    const first = fitTo(() => atBudget)
    const names = [...first.keys()]
    const own = await this.#reached(Array.from(first.values(), ({ schedule }) => parseSchedule(schedule)))
    return fitTo((name) => own[names.indexOf(name)] ?? atBudget)
  }

  /** How long the texts of the development set are, under each schedule. */
  async #reached(schedules: readonly Schedule[]): Promise<Reached[]> {
    const all = await this.#write(schedules)
    const steps = evenly(this.#options.maxTokens)
    return all.map((written) => {
      const counts = steps.map((_, step) => written.filter(({ tokenIds }) => tokenIds.length > step).length)
      return counts[0] === 0 ? steps : counts
    })
  }

  /** Thresholds of the least loss by the levels' own, among those whose texts have the wanted mean. */
  async #adaptive(budget: number): Promise<string> {
    const { levels, keep } = this.#model
    if (this.#options.dev === undefined) return `adaptive:${budgetName(0, levels, keep)}:${this.#lowest()}`
    const { maxTokens, signal } = this.#options
    this.#traces ??= levelTraces(this.#model, this.#reference, await this.#asked(), { maxTokens, signal })
    const candidates = adaptiveCandidates(levels, keep, await this.#traces)
    const measured = await measureWithin(candidates, budget, async (chosen) => {
      const written = await this.#write(chosen.map(({ schedule }) => parseSchedule(schedule)))
      return chosen.map((one, index) => ({ ...one, budget: this.#meanBudget(written[index] ?? []) }))
    })
    const [best] = bestWithin(measured, budget, 1)
    if (best !== undefined) return best.schedule
    throw new FlrcError('E_USAGE', `no adaptive schedule of this model has a mean of at most ${budget}`)
  }

  #meanBudget(written: readonly Completion[]): number {
    const budgets = written.flatMap(({ levels }) =>
      levels.map((level) => this.#model.levels[level]?.budget ?? 1),
    )
    return budgets.length > 0 ? meanOf(budgets) : 1
  }

  #asked(): Promise<Prompt[]> {
    const { dev = [], devLimit: limit, maxTokens, signal } = this.#options
    this.#prompts ??= dialoguePrompts(this.#model, dev, { limit, maxTokens, signal })
    return this.#prompts
  }

  /** What the model writes of the development set under each schedule. */
  async #write(schedules: readonly Schedule[]): Promise<Completion[][]> {
    const { maxTokens, signal } = this.#options
    const written = await writeEach(this.#model, await this.#asked(), schedules, { maxTokens, signal })
    return schedules.map((_, index) => written.flatMap((ofPrompt) => ofPrompt[index] ?? []))
  }
}

/** A schedule as its row says it; level 0 where it has none. */
export function scheduleNamed(text: string): Schedule | undefined {
  return text === 'full' || text.startsWith('speculate') ? undefined : parseSchedule(text)
}
