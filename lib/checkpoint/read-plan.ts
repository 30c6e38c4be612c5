import path from 'node:path'
import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText, readJsonObject, statIfThere } from '../format/files.js'

/** A plan beyond this is none. */
const planLimit = 1_000_000_000

const numbers = v.array(v.number())
const point = v.object({
  step: v.number(),
  tokens: v.number(),
  minutes: v.number(),
  kl: numbers,
  loss: numbers,
})

/** What of `CompressionPlan` others read. Old plans lack what came later, so all but the scores may be missing. */
const planSchema = v.object({
  method: v.optional(v.string(), 'unknown'),
  storage: v.optional(v.picklist(['pivoted', 'plain'])),
  budgets: v.optional(numbers),
  options: v.optional(v.record(v.string(), v.unknown()), {}),
  channels: v.optional(v.object({ dropped: v.number() })),
  model: v.optional(v.object({ sha256: v.string(), bytes: v.optional(v.number()) })),
  calibration: v.optional(
    v.object({
      sha256: v.string(),
      tokens: v.number(),
      windows: v.number(),
      sources: v.optional(
        v.array(v.object({ kind: v.string(), name: v.optional(v.string()), windows: v.number() })),
        [],
      ),
    }),
  ),
  scores: v.record(v.string(), v.number()),
  curves: v.optional(v.record(v.string(), numbers), {}),
  sensitivity: v.optional(
    v.object({ ratios: numbers, windows: v.number(), losses: v.record(v.string(), numbers) }),
  ),
  heldOut: v.optional(
    v.object({
      windows: v.number(),
      tokens: v.number(),
      decidedKeep: v.optional(v.boolean()),
      dense: v.object({ bytes: v.number(), perplexity: v.number(), budget: v.optional(v.number()) }),
      levels: v.array(v.object({ perplexity: v.number() })),
    }),
  ),
  recovery: v.optional(
    v.object({ minutes: v.optional(v.number()), curve: v.array(point), best: point, heldOut: v.number() }),
  ),
  versions: v.optional(v.record(v.string(), v.string()), {}),
})

export type StoredPlan = v.InferOutput<typeof planSchema>

/** Which of its projections' scores a plan holds. */
export function scoreKindOf({ options }: Pick<StoredPlan, 'options'>): string {
  return typeof options.score === 'string' ? options.score : 'fisher'
}

/**
 * A checkpoint's plan. A checkpoint works without it, so a missing one is undefined.
 *
 * @throws E_MODEL_FORMAT for a broken one, E_IO
 */
export async function readPlan(directory: string): Promise<StoredPlan | undefined> {
  return readRecord(path.join(directory, 'flrc-plan.json'), planSchema)
}

const runSchema = v.object({
  seconds: v.record(v.string(), v.number()),
  peakBytes: v.number(),
  threads: v.number(),
})

export type StoredRun = v.InferOutput<typeof runSchema>

/** What making a checkpoint took, as `readPlan`. */
export async function readRun(directory: string): Promise<StoredRun | undefined> {
  return readRecord(path.join(directory, 'flrc-run.json'), runSchema)
}

async function readRecord<T extends v.GenericSchema>(
  file: string,
  schema: T,
): Promise<v.InferOutput<T> | undefined> {
  if (!(await statIfThere(file))) return undefined
  const parsed = v.safeParse(schema, await readJsonObject(file, { limit: planLimit, code: 'E_MODEL_FORMAT' }))
  if (parsed.success) return parsed.output
  throw new FlrcError(
    'E_MODEL_FORMAT',
    `${file}: ${issueText(parsed.issues)}; copy it from the original checkpoint again`,
    { file },
  )
}
