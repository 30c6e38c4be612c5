/** What passes cost, in plain steps of level 0. */
export interface SpeculationCosts {
  /** One draft: a step at the drafts' level, output head and attention included. */
  draft: number
  /** What each column beyond the first adds to a pass at level 0. */
  column: number
}

/** Tokens that a round of k drafts gives, where each is accepted with the same probability: 1 + a + .. + a^k. */
export function tokensPerRound(acceptance: number, drafts: number): number {
  return acceptance === 1 ? drafts + 1 : (1 - acceptance ** (drafts + 1)) / (1 - acceptance)
}

/**
 * Speed of self-speculation with k drafts a round, against plain steps (after Leviathan et al. 2023,
 * arXiv 2211.17192, theorem 3.8, whose verification costs as much as a step):
 *
 *     (1 + a + .. + a^k) / (k c + 1 + k v)
 *
 * with acceptance a, a draft's cost c and a column's cost v in plain steps. It pays where this is above 1: with one
 * draft, where a > c + v.
 */
export function speedUp(acceptance: number, drafts: number, { draft, column }: SpeculationCosts): number {
  return tokensPerRound(acceptance, drafts) / (1 + drafts * (draft + column))
}

/** The number of drafts from 1 to `most` that promises the highest speed. */
export function bestDrafts(acceptance: number, most: number, costs: SpeculationCosts): number {
  let best = 1
  for (let drafts = 2; drafts <= most; drafts++) {
    if (speedUp(acceptance, drafts, costs) > speedUp(acceptance, best, costs)) best = drafts
  }
  return best
}
