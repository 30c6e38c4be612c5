import path from 'node:path'
import * as v from 'valibot'
import { denseParametersOf, type Rank } from './allocate.js'
import { FlrcError } from './errors.js'
import { readJsonObject, statIfThere } from './format/files.js'
import type { ModelConfig, ModelSource, StorageDtype } from './format/types.js'
import { projectionsOf } from './model.js'
import { openModelSource } from './model-source.js'

/** One projection of a model on disk. */
export interface InspectedProjection {
  name: string
  /** [outputs, inputs] */
  shape: [number, number]
  /** Rank at each level, level 0 first; the one entry `dense` for a model that is not compressed. */
  ranks: Rank[]
  /** Fisher score, where the checkpoint's plan has it. */
  score?: number
}

/** A model on disk, from its headers alone. */
export interface Inspection {
  path: string
  format: ModelSource['format']
  config: Omit<ModelConfig, 'source' | 'ropeFrequencies' | 'slidingWindow'>
  /** Of an FLRC checkpoint. */
  keep?: number
  dtype?: StorageDtype
  storage?: 'pivoted' | 'plain'
  /** The schedule that `calibrated` means. */
  schedule?: string
  levels: { budget: number }[]
  /** Tensor types of the files and the bytes of each. */
  types: Record<string, number>
  denseParameters: number
  /** Bytes of the weight files. */
  bytes: number
  projections: InspectedProjection[]
}

/** A plan beyond this is none. */
const planLimit = 1_000_000_000

/** Reads a model's headers, and a checkpoint's plan; no weights. Errors: those of opening a model. */
export async function inspect(model: string): Promise<Inspection> {
  const source = await openModelSource(model)
  const { config, flrc } = source
  const { source: _source, ropeFrequencies: _rope, slidingWindow: _window, ...shapes } = config
  const projections = projectionsOf(config)
  const scores = flrc ? await planScores(model) : {}
  const types: Record<string, number> = {}
  for (const { type, byteLength } of source.tensors.values()) types[type] = (types[type] ?? 0) + byteLength
  return {
    path: model,
    format: source.format,
    config: shapes,
    keep: flrc?.keep,
    dtype: flrc?.dtype,
    storage: flrc?.storage,
    schedule: flrc?.schedule,
    levels: flrc?.levels.map(({ budget }) => ({ budget })) ?? [{ budget: 1 }],
    types,
    denseParameters: denseParametersOf(projections),
    bytes: source.fileBytes,
    projections: projections.map(({ name, rows, cols }) => ({
      name,
      shape: [rows, cols],
      ranks: flrc?.levels.map(({ ranks }) => ranks[name] ?? 'dense') ?? ['dense'],
      score: scores[name],
    })),
  }
}

const planSchema = v.object({ scores: v.record(v.string(), v.number()) })

/** A checkpoint works without its plan, so a missing one says nothing; a broken one is E_MODEL_FORMAT. */
async function planScores(directory: string): Promise<Record<string, number>> {
  const file = path.join(directory, 'flrc-plan.json')
  if (!(await statIfThere(file))) return {}
  const plan = await readJsonObject(file, { limit: planLimit, code: 'E_MODEL_FORMAT' })
  const parsed = v.safeParse(planSchema, plan)
  if (parsed.success) return parsed.output.scores
  throw new FlrcError(
    'E_MODEL_FORMAT',
    `${file}: holds no scores; copy it from the original checkpoint again`,
    { file },
  )
}
