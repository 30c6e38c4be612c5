/** The mean of at least one value. */
export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** The mean of values that weigh this much; 0 where nothing weighs anything. */
export function weightedMean(values: readonly number[], weights: readonly number[]): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  return total > 0 ? values.reduce((sum, value, at) => sum + value * (weights[at] ?? 0), 0) / total : 0
}
