import type { NativePenalties } from '../native-types.js'

export interface PenaltyOptions {
  /**
   * Makes tokens of the prompt and of what has been generated less likely: their logits are divided by it where they
   * are above zero and multiplied by it elsewhere (CTRL, arXiv 1909.05858, section 4.1); 1 is off.
   */
  repeatPenalty?: number
  /** Taken from a token's logit for every time that it has been generated, as in OpenAI's API; 0 is off. */
  frequencyPenalty?: number
  /** Taken from the logit of every token that has been generated, as in OpenAI's API; 0 is off. */
  presencePenalty?: number
}

/** The tokens of one generation, and what their logits are penalised by. */
export class Penalties {
  readonly #options: Required<PenaltyOptions>
  /** How often each token has been generated; 0 of those that are in the prompt alone. */
  readonly #counts = new Map<number, number>()

  /** Undefined where nothing is penalised. */
  static of(options: Required<PenaltyOptions>, prompt: readonly number[]): Penalties | undefined {
    const { repeatPenalty, frequencyPenalty, presencePenalty } = options
    if (repeatPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0) return undefined
    return new Penalties(options, repeatPenalty === 1 ? [] : prompt)
  }

  private constructor(options: Required<PenaltyOptions>, prompt: readonly number[]) {
    this.#options = options
    for (const token of prompt) this.#counts.set(token, 0)
  }

  /** A token was generated. */
  push(token: number): void {
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1)
  }

  native(): NativePenalties {
    const { repeatPenalty, frequencyPenalty, presencePenalty } = this.#options
    const counts = Float64Array.from(this.#counts.values())
    return {
      tokens: Int32Array.from(this.#counts.keys()),
      factors: new Float64Array(counts.length).fill(repeatPenalty),
      offsets: counts.map((count) => count * frequencyPenalty + (count > 0 ? presencePenalty : 0)),
    }
  }
}
