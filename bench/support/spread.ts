import { medianOf } from '#lib/statistics/median.js'

/** The median, and in brackets the least and the most. */
export function spread(values: readonly number[], digits: number): string {
  const [median, least, most] = [medianOf(values), Math.min(...values), Math.max(...values)]
  return `${median.toFixed(digits)} (${least.toFixed(digits)} to ${most.toFixed(digits)})`
}
