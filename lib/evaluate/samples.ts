import { checkWhole, refuse } from '../check.js'
import { FlrcError } from '../errors.js'

/** A sample's own name, or its place counted from 1. */
export function sampleName(sample: { id?: string }, index: number): string {
  return sample.id ?? String(index + 1)
}

/** The first `limit` samples, or all. E_USAGE where there are none. */
export function firstSamples<T>(samples: readonly T[], limit: number | undefined): readonly T[] {
  if (limit !== undefined) checkWhole('limit', limit, 1)
  if (!Array.isArray(samples)) refuse('samples', typeof samples, 'a list')
  const chosen = samples.slice(0, limit)
  if (chosen.length === 0) throw new FlrcError('E_USAGE', 'there are no samples to measure; give at least one')
  return chosen
}

/** A failure while a sample was measured, with the sample's name before it. */
export function ofSample(name: string, error: unknown): unknown {
  if (!(error instanceof FlrcError) || error.code === 'E_ABORTED') return error
  const { code, file, tensor } = error
  return new FlrcError(code, `sample ${name}: ${error.message}`, { file, tensor, cause: error })
}
