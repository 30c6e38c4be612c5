import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText } from './files.js'
import { type Projection, projectionNames } from './projections.js'
import type { FlrcHeader, ModelConfig } from './types.js'

/** The newest checkpoint layout that this version reads; it writes the oldest one that has what there is to say. */
export const flrcVersion = 2

/** What a header says of the channels that a model's MLPs have left, and the layout that has it. */
export function headerOfChannels({
  intermediateSizes,
}: Pick<ModelConfig, 'intermediateSizes'>): Pick<FlrcHeader, 'version' | 'intermediateSizes'> {
  return intermediateSizes === undefined ? { version: 1 } : { version: 2, intermediateSizes }
}

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
  intermediateSizes: v.optional(v.array(v.pipe(v.number(), v.safeInteger(), v.minValue(1)))),
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
 * one that cannot be right. Channels are checked by withChannelsLeft and ranks by checkRanks, once the source config is
 * known.
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

/** The source's config with the channels that the checkpoint has left. E_MODEL_FORMAT where they are not a layer's each. */
export function withChannelsLeft(
  config: ModelConfig,
  { intermediateSizes }: FlrcHeader,
  file: string,
): ModelConfig {
  if (intermediateSizes === undefined) return config
  const { layers, intermediateSize } = config
  if (intermediateSizes.length !== layers) {
    throw malformed(file, `flrc: ${intermediateSizes.length} intermediateSizes for ${layers} layers`)
  }
  const layer = intermediateSizes.findIndex((size) => size > intermediateSize)
  if (layer >= 0) {
    const size = intermediateSizes[layer]
    throw malformed(file, `flrc: layer ${layer} has ${size} channels of an MLP with ${intermediateSize}`)
  }
  return { ...config, intermediateSizes }
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
