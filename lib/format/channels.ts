import type { ModelConfig } from './types.js'

/**
 * What is left of the channels of a model's MLPs, in words: `1024 to 1536 of 1536, 81% in all`. Undefined where none was
 * dropped.
 */
export function channelsLeft({
  intermediateSize,
  intermediateSizes,
}: Pick<ModelConfig, 'intermediateSize' | 'intermediateSizes'>): string | undefined {
  if (intermediateSizes === undefined) return undefined
  const total = intermediateSizes.reduce((sum, size) => sum + size, 0)
  const share = Math.round((100 * total) / (intermediateSizes.length * intermediateSize))
  return `${Math.min(...intermediateSizes)} to ${Math.max(...intermediateSizes)} of ${intermediateSize}, ${share}% in all`
}
