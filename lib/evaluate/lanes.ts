import { abortedError } from '../errors.js'
import { cacheBytesPerPosition, type LoadedModel } from '../model.js'

/** Sequences that one read of the weights serves. */
const most = 16
/** Bytes that the caches of sequences side by side may take. */
const cacheBytes = 2 ** 31

/**
 * How many sequences of at most `length` tokens are decoded side by side: as many as one read of the weights
 * serves, or as caches fit into 2 GiB where those are large.
 */
export function lanesFor({ config, dtype }: LoadedModel, length: number): number {
  const perToken = config.layers * cacheBytesPerPosition(config, dtype)
  return Math.min(most, Math.max(1, Math.floor(cacheBytes / (perToken * length))))
}

/**
 * Runs `work` on every item, `lanes` at a time, and resolves to the results in the items' order. The first failure
 * aborts the others' signal and, once they have ended, rejects.
 */
export async function inLanes<T, R>(
  items: readonly T[],
  lanes: number,
  outer: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<R>,
): Promise<R[]> {
  if (outer?.aborted) throw abortedError()
  const results: R[] = []
  const failures: unknown[] = []
  const stop = new AbortController()
  const onAbort = () => stop.abort()
  outer?.addEventListener('abort', onAbort)
  const waiting = items.entries()
  const lane = async () => {
    for (const [index, item] of waiting) {
      if (stop.signal.aborted) return
      try {
        results[index] = await work(item, stop.signal)
      } catch (error) {
        failures.push(error)
        stop.abort()
      }
    }
  }
  try {
    await Promise.all(Array.from({ length: Math.min(lanes, items.length) }, lane))
  } finally {
    outer?.removeEventListener('abort', onAbort)
  }
  if (failures.length > 0) throw failures[0]
  if (outer?.aborted) throw abortedError()
  return results
}
