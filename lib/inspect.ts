import type { Rank } from './allocate.js'
import { readPlan, scoreKindOf } from './checkpoint/read-plan.js'
import { denseBlockParameters } from './format/projections.js'
import type { ModelConfig, ModelSource, StorageDtype } from './format/types.js'
import type { TaskOptions } from './model.js'
import { openModel } from './open-model.js'
import { projectionsOf } from './projections.js'

/** One projection of a model on disk. */
export interface InspectedProjection {
  name: string
  /** [outputs, inputs] */
  shape: [number, number]
  /** Rank at each level, level 0 first; the one entry `dense` for a model that is not compressed. */
  ranks: Rank[]
  /** Of the kind `scoreKind`, where the checkpoint's plan has it. */
  score?: number
}

/** A model on disk, from its headers alone. */
export interface Inspection {
  path: string
  format: ModelSource['format']
  config: Omit<ModelConfig, 'source' | 'ropes' | 'layerRope' | 'slidingWindow'>
  /** Of an FLRC checkpoint. */
  keep?: number
  dtype?: StorageDtype
  storage?: 'pivoted' | 'plain'
  /** Which score the projections have, where they have one: `fisher`, `gradient` or `taylor`. */
  scoreKind?: string
  /** The schedule that `calibrated` means. */
  schedule?: string
  levels: { budget: number }[]
  /** Tensor types of the files and the bytes of each. */
  types: Record<string, number>
  /** Block parameters of the dense model, with all channels of its MLPs. */
  denseParameters: number
  /** Bytes of the weight files. */
  bytes: number
  projections: InspectedProjection[]
}

/** Reads a model's headers, and a checkpoint's plan; no weights. Errors: those of opening a model. */
export async function inspect(model: string, task: TaskOptions = {}): Promise<Inspection> {
  const source = await openModel(model, task)
  const { config, flrc } = source
  const { source: _source, ropes: _ropes, layerRope: _rope, slidingWindow: _window, ...shapes } = config
  const projections = projectionsOf(config)
  const plan = flrc && (await readPlan(source.path))
  const scores = plan?.scores ?? {}
  const types: Record<string, number> = {}
  for (const { type, byteLength } of source.tensors.values()) types[type] = (types[type] ?? 0) + byteLength
  return {
    path: model,
    format: source.format,
    config: shapes,
    keep: flrc?.keep,
    dtype: flrc?.dtype,
    storage: flrc?.storage,
    scoreKind: plan && scoreKindOf(plan),
    schedule: flrc?.schedule,
    levels: flrc?.levels.map(({ budget }) => ({ budget })) ?? [{ budget: 1 }],
    types,
    denseParameters: denseBlockParameters(config),
    bytes: source.fileBytes,
    projections: projections.map(({ name, rows, cols }) => ({
      name,
      shape: [rows, cols],
      ranks: flrc?.levels.map(({ ranks }) => ranks[name] ?? 'dense') ?? ['dense'],
      score: scores[name],
    })),
  }
}
