import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText } from './files.js'
import { type Projection, projectionNames } from './projections.js'
import type { FlrcHeader, ModelConfig } from './types.js'

/** The checkpoint layout this version writes, and the newest it reads. */
export const flrcVersion = 1

const share = v.pipe(v.number(), v.gtValue(0), v.maxValue(1))
const rank = v.union([v.pipe(v.number(), v.safeInteger(), v.minValue(0)), v.literal('dense')])
const headerSchema = v.object({
  version: v.number(),
  keep: share,
  levels: v.pipe(
    v.array(v.object({ budget: share, ranks: v.record(v.string(), rank) })),
    v.minLength(1),
    v.maxLength(256),
  ),
  dtype: v.picklist(['f32', 'bf16', 'int8', 'int4']),
  storage: v.picklist(['pivoted', 'plain']),
  schedule: v.optional(v.string()),
  source: v.record(v.string(), v.unknown()),
})

function malformed(file: string, problem: string, tensor?: string): FlrcError {
  return new FlrcError('E_MODEL_FORMAT', `${file}: ${problem}; write the checkpoint again with flrc compress`, {
    file,
    ...(tensor === undefined ? {} : { tensor }),
  })
}

/**
 * The `flrc` object of a checkpoint's config.json. Throws E_VERSION for a newer layout, E_MODEL_FORMAT for
 * one that cannot be right. Ranks are checked by checkRanks, once the source config is known.
 */
export function flrcHeader(value: unknown, file: string): FlrcHeader & { source: Record<string, unknown> } {
  const version = v.safeParse(v.object({ version: v.pipe(v.number(), v.safeInteger(), v.minValue(1)) }), value)
  if (!version.success) throw malformed(file, `flrc: ${issueText(version.issues)}`)
  if (version.output.version > flrcVersion) {
    throw new FlrcError(
      'E_VERSION',
      `${file}: checkpoint version ${version.output.version}, newer than the ${flrcVersion} this flrc reads; upgrade with npm install flrc@latest`,
      { file },
    )
  }
  const parsed = v.safeParse(headerSchema, value)
  if (!parsed.success) throw malformed(file, `flrc: ${issueText(parsed.issues)}`)
  return parsed.output
}

function checkLevel(
  ranks: Map<string, number | 'dense'>,
  above: Map<string, number | 'dense'> | undefined,
  projections: readonly Projection[],
  where: string,
  file: string,
): void {
  for (const { name, out, in: width } of projections) {
    const rank = ranks.get(name)
    if (rank === undefined) throw malformed(file, `${where} has no rank for ${name}`, name)
    const largest = Math.min(out, width)
    if (rank !== 'dense' && rank > largest) {
      throw malformed(file, `${where}: rank ${rank} of ${name} is beyond its full rank ${largest}`, name)
    }
    const before = above?.get(name)
    if (before === undefined) continue
    const grows = rank === 'dense' || before === 'dense' ? rank !== before : rank > before
    if (grows) throw malformed(file, `${where}: rank of ${name} goes from ${before} to ${rank}`, name)
  }
}

/** Checks that each level ranks exactly the model's projections, and that no rank grows from level to level. */
export function checkRanks(header: FlrcHeader, config: ModelConfig, file: string): void {
  const projections = projectionNames(config)
  const known = new Set(projections.map(({ name }) => name))
  let above: Map<string, number | 'dense'> | undefined
  header.levels.forEach(({ budget, ranks }, level) => {
    const where = `flrc: level ${level}`
    const stranger = Object.keys(ranks).find((name) => !known.has(name))
    if (stranger !== undefined) throw malformed(file, `${where} ranks ${stranger}, no projection of this model`)
    const larger = level > 0 ? (header.levels[level - 1]?.budget ?? 1) : 1
    if (budget > larger) throw malformed(file, `${where}: budget ${budget} is above the level before`)
    const map = new Map(Object.entries(ranks))
    checkLevel(map, above, projections, where, file)
    above = map
  })
}
