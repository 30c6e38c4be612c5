import { bestDrafts, type SpeculationCosts, speedUp } from './speed-up.js'

/** What speculation may owe at any time, in plain steps: this much, and this share of the tokens so far. */
const grace = 1
const share = 0.02

/** What is saved beyond this many plain steps pays for no later attempts. */
const mostSaved = 2

/** The acceptance assumed before the first draft, and how many drafts it counts for. */
const prior = { acceptance: 0.8, drafts: 2.5 }

/** What a round's drafts count for after the next round. */
const memory = 0.9

/** Where the policy learns what passes cost, in plain steps. */
export interface CostSource {
  /** Undefined as long as nothing is known. */
  readonly costs: SpeculationCosts | undefined
  step(milliseconds: number): void
  round(drafted: number, milliseconds: number, draftMilliseconds: number): void
}

/** How a generation's next round drafts. */
export interface DraftPlan {
  /** Drafts at most; 0 is a plain step. */
  drafts: number
  /** What the probability of all that is drafted must not fall below for one more draft to be worth its cost. */
  least: number
}

/**
 * Decides how much to draft, from the acceptance so far and from what passes cost: as many drafts as promise the
 * highest speed, and none where none promises more than plain steps. What rounds have cost beyond the plain steps
 * that their tokens stand for is kept as a debt. Speculation that promises nothing is tried again, one draft at a time,
 * as far as the debt stays below one step and 2% of the tokens; a debt beyond that stops it whatever it promises.
 */
export class SpeculationPolicy {
  readonly #most: number
  readonly #source: CostSource
  #drafts = prior.drafts
  #accepted = prior.acceptance * prior.drafts
  #tokens = 0
  #debt = 0

  constructor(most: number, source: CostSource) {
    this.#most = most
    this.#source = source
  }

  /** @param limit tokens that the round may draft */
  next(limit: number): DraftPlan {
    const most = Math.min(this.#most, limit)
    const costs = this.#source.costs
    const none = { drafts: 0, least: 0 }
    if (most < 1 || costs === undefined) return none
    const acceptance = this.#accepted / this.#drafts
    const each = costs.draft + costs.column
    const least = each / acceptance
    const allowed = grace + share * this.#tokens - this.#debt
    const best = bestDrafts(acceptance, most, costs)
    if (speedUp(acceptance, best, costs) > 1 && allowed >= 0) return { drafts: best, least }
    return allowed >= each ? { drafts: 1, least } : none
  }

  /** Hears of a plain step. */
  step(milliseconds: number): void {
    this.#tokens++
    this.#source.step(milliseconds)
  }

  /** Hears of a round: drafts made and accepted, what it took in all and for the drafts alone. */
  round(drafted: number, accepted: number, milliseconds: number, draftMilliseconds: number): void {
    this.#source.round(drafted, milliseconds, draftMilliseconds)
    const { draft, column } = this.#source.costs ?? { draft: 0, column: 0 }
    const cost = 1 + drafted * (draft + column)
    this.#tokens += accepted + 1
    this.#debt = Math.max(-mostSaved, this.#debt + cost - (accepted + 1))
    // Drafts behind the first that was refused say nothing.
    this.#drafts = memory * this.#drafts + Math.min(drafted, accepted + 1)
    this.#accepted = memory * this.#accepted + accepted
  }
}

/** Costs that do not change: what follows from them is the same on every machine and in every run. */
export function fixedCosts(costs: SpeculationCosts): CostSource {
  return { costs, step: () => undefined, round: () => undefined }
}

/** How many of the latest times count, and how many plain steps must be known before anything is. */
const window = 7
const fewestSteps = 2

/** Costs as they are measured: medians of the latest times. Before the first round, `guess`. */
export class MeasuredCosts implements CostSource {
  readonly #guess: SpeculationCosts
  readonly #steps: number[] = []
  readonly #drafts: number[] = []
  readonly #columns: number[] = []

  constructor(guess: SpeculationCosts) {
    this.#guess = guess
  }

  get costs(): SpeculationCosts | undefined {
    if (this.#steps.length < fewestSteps) return undefined
    const step = median(this.#steps)
    if (this.#drafts.length === 0) return this.#guess
    return { draft: median(this.#drafts) / step, column: Math.max(0, median(this.#columns)) / step }
  }

  step(milliseconds: number): void {
    remember(this.#steps, milliseconds)
  }

  round(drafted: number, milliseconds: number, draftMilliseconds: number): void {
    remember(this.#drafts, draftMilliseconds / drafted)
    remember(this.#columns, (milliseconds - draftMilliseconds - median(this.#steps)) / drafted)
  }
}

function remember(times: number[], milliseconds: number): void {
  times.push(milliseconds)
  if (times.length > window) times.shift()
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0
}
