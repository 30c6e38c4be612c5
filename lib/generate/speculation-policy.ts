import { bestDrafts, type SpeculationCosts, speedUp } from './speed-up.js'

/**
 * What rounds have cost beyond the plain steps that their tokens stand for is a debt, in plain steps. It may reach
 * `mostOwed`, begins at `owedAtFirst`, and every token pays off `share`; what is gained beyond `mostSaved` pays for no
 * later attempts.
 */
const mostOwed = 1
const owedAtFirst = 0.2
const share = 0.01
const mostSaved = 2

/** The acceptance assumed before the first draft, and how many drafts it counts for. */
const prior = { acceptance: 0.8, drafts: 2.5 }

/** What a round's drafts count for after the next round. */
const memory = 0.9

/** Where the policy learns what passes cost. */
export interface CostSource {
  /** What a draft and its column cost together, in plain steps; undefined as long as nothing is known. */
  readonly each: number | undefined
  /** Whether rounds change it. */
  readonly measured: boolean
  /** Whether a plain step is to be measured before the next round. */
  readonly due: boolean
  step(milliseconds: number): void
  round(drafted: number, milliseconds: number): void
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
 * highest speed, but no more (than one) as the debt allows if all are refused; and none where none promises more than
 * plain steps. There one draft is tried whenever no debt is left, because acceptance changes with the text. One policy
 * may serve a generation or, one after another or at once, all those of a model: later ones begin with what is known.
 */
export class SpeculationPolicy {
  readonly #source: CostSource
  #drafts = prior.drafts
  #accepted = prior.acceptance * prior.drafts
  #debt = owedAtFirst

  constructor(source: CostSource) {
    this.#source = source
  }

  /** Hears of a new generation, which is not to lose what others have gained. */
  begin(): void {
    this.#debt = Math.max(0, this.#debt)
  }

  /** @param most tokens that the round may draft */
  next(most: number): DraftPlan {
    const { each, measured, due } = this.#source
    const none = { drafts: 0, least: 0 }
    if (most < 1 || each === undefined || due) return none
    const acceptance = this.#accepted / this.#drafts
    const costs = { draft: each, column: 0 }
    const least = each / acceptance
    const allowed = mostOwed - this.#debt
    const best = bestDrafts(acceptance, most, costs)
    if (speedUp(acceptance, best, costs) > 1) {
      return allowed > 0 ? { drafts: Math.min(best, Math.max(1, Math.floor(allowed / each))), least } : none
    }
    // Where a draft costs a step or more, even drafts that are all accepted gain nothing.
    const possible = measured || each < 1
    return possible && allowed >= mostOwed ? { drafts: 1, least } : none
  }

  /** Hears of a plain step. */
  step(milliseconds: number): void {
    this.#payOff(1)
    this.#source.step(milliseconds)
  }

  /** Hears of a round: drafts made and accepted, and what it took. */
  round(drafted: number, accepted: number, milliseconds: number): void {
    this.#source.round(drafted, milliseconds)
    const cost = 1 + drafted * (this.#source.each ?? 0)
    this.#debt = Math.max(-mostSaved, this.#debt + cost - (accepted + 1))
    this.#payOff(accepted + 1)
    // Drafts behind the first that was refused say nothing.
    this.#drafts = memory * this.#drafts + Math.min(drafted, accepted + 1)
    this.#accepted = memory * this.#accepted + accepted
  }

  #payOff(tokens: number): void {
    if (this.#debt > 0) this.#debt = Math.max(0, this.#debt - share * tokens)
  }
}

/** A cost that does not change: what follows from it is the same on every machine and in every run. */
export function fixedCosts({ draft, column }: SpeculationCosts): CostSource {
  const nothing = () => undefined
  return { each: draft + column, measured: false, due: false, step: nothing, round: nothing }
}

/** How many of the latest times count, and how many plain steps must be known before anything is. */
const window = 7
const fewestSteps = 4
/** A draft and its column take no more steps than this; what seems to was interrupted. */
const mostEach = 2
/** Rounds after which a plain step is measured anew, as what else the machine does changes. */
const mostRounds = 15

/**
 * Costs as they are measured: medians of the latest times. The guess counts as a first round, so that one time that is
 * far too long stops nothing.
 */
export class MeasuredCosts implements CostSource {
  readonly measured = true
  readonly #steps: number[] = []
  readonly #each: number[]
  #rounds = 0

  constructor({ draft, column }: SpeculationCosts) {
    this.#each = [draft + column]
  }

  get due(): boolean {
    return this.#rounds >= mostRounds
  }

  get each(): number | undefined {
    return this.#steps.length < fewestSteps ? undefined : Math.max(0, median(this.#each))
  }

  step(milliseconds: number): void {
    this.#rounds = 0
    remember(this.#steps, milliseconds)
  }

  round(drafted: number, milliseconds: number): void {
    this.#rounds++
    remember(this.#each, Math.min(mostEach, (milliseconds / median(this.#steps) - 1) / drafted))
  }
}

function remember(values: number[], value: number): void {
  values.push(value)
  if (values.length > window) values.shift()
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0
}
