import { type BatchSession, DecodeBatch } from '../generate/batch.js'
import { checkOptions } from '../generate/options.js'
import { type Completion, complete, decode } from '../generate.js'
import type { LoadedModel } from '../model.js'
import type { ScheduleChoice } from '../schedule.js'
import { inLanes, lanesFor } from './lanes.js'
import { longestOf, type Prompt } from './prompts.js'
import { ofSample } from './samples.js'

export interface WriteOptions {
  maxTokens: number
  signal: AbortSignal | undefined
  /** Hears of the prompts done so far. */
  onDone?: (done: number) => void
}

/**
 * What a model writes of every prompt, greedily and under each of the schedules: completions by prompt and schedule.
 * A prompt is read once. Up to 16 prompts go side by side, each to what it would give alone. Errors: E_USAGE for an
 * unusable schedule; those of a generation, with the sample's name.
 */
export async function writeEach(
  model: LoadedModel,
  prompts: readonly Prompt[],
  schedules: readonly (ScheduleChoice | undefined)[],
  { maxTokens, signal, onDone }: WriteOptions,
): Promise<Completion[][]> {
  const options = schedules.map((schedule) => checkOptions({ maxTokens, schedule }, model))
  const lanes = lanesFor(model, (longestOf(prompts) + maxTokens) * schedules.length)
  const batch = new DecodeBatch(model, { signal, waitsFor: 'all' })
  let done = 0
  onDone?.(done)
  return inLanes(prompts, lanes, signal, async ({ id, tokens }, stopped) => {
    const first = batch.open()
    const sessions: BatchSession[] = [first]
    try {
      await first.prefill(Int32Array.from(tokens), 0, stopped)
      for (const _ of schedules.slice(1)) sessions.push(await first.fork())
      // A session that ended must not keep the others waiting.
      const ends = await Promise.allSettled(
        options.map(async (own, index) => {
          const session = sessions[index] ?? first
          try {
            return await complete(decode(model, session, tokens, { ...own, reused: tokens.length }, stopped))
          } finally {
            session.release()
          }
        }),
      )
      const completions = ends.map((end) => {
        if (end.status === 'rejected') throw end.reason
        return end.value
      })
      onDone?.(++done)
      return completions
    } catch (error) {
      throw ofSample(id, error)
    } finally {
      for (const session of sessions) session.release()
    }
  })
}
