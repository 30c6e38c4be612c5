import path from 'node:path'
import { costOfRanks, type FactorStorage } from '../allocate.js'
import { readPlan, readRun, type StoredPlan, type StoredRun } from '../checkpoint/read-plan.js'
import { FlrcError } from '../errors.js'
import { type ProjectionKind, projectionNames } from '../format/projections.js'
import { type Inspection, inspect } from '../inspect.js'
import type { PlottedProjection } from '../plots.js'
import type { QualityRows } from './quality.js'

/** All that a report is made of. */
export interface ReportContents {
  name: string
  inspection: Inspection
  storage: FactorStorage
  projections: readonly ReportedProjection[]
  plan: StoredPlan | undefined
  run: StoredRun | undefined
  quality: QualityRows | undefined
}

/** Bytes of all tensors of a model on disk, without the headers of its files. */
export function tensorBytes({ types }: Inspection): number {
  return Object.values(types).reduce((sum, bytes) => sum + bytes, 0)
}

export interface ReportedProjection extends PlottedProjection {
  name: string
  kind: ProjectionKind
  rows: number
  cols: number
}

/**
 * What a checkpoint says about itself, from its headers, plan and record of the run; no weights are read.
 * Errors: those of opening a model, E_MODEL_FORMAT, and E_USAGE for a model that is no FLRC checkpoint.
 */
export async function readContents(directory: string, quality?: QualityRows): Promise<ReportContents> {
  const inspection = await inspect(directory)
  const { storage, config } = inspection
  if (storage === undefined) {
    throw new FlrcError(
      'E_USAGE',
      `${directory}: not compressed by flrc, so there is nothing to report; give a directory that flrc compress wrote`,
      { file: directory },
    )
  }
  const [plan, run] = await Promise.all([readPlan(directory), readRun(directory)])
  if (quality?.modelSha256 !== undefined && plan?.model && plan.model.sha256 !== quality.modelSha256) {
    throw new FlrcError(
      'E_USAGE',
      `${directory}: the rows of quality are of another model (SHA-256 ${quality.modelSha256}); measure this one's source`,
      { file: directory },
    )
  }
  const places = projectionNames(config)
  const projections = inspection.projections.map(({ name, shape: [rows, cols], ranks, score }, index) => {
    const costs = costOfRanks({ rows, cols }, ranks, storage)
    const { layer = 0, kind = 'q' } = places[index] ?? {}
    return { name, layer, kind, rows, cols, ranks, shares: costs.map((cost) => cost / (rows * cols)), score }
  })
  return { name: path.basename(path.resolve(directory)), inspection, storage, projections, plan, run, quality }
}

/** Values of one kind of projection over the layers, for tables: a row a layer. */
export function byLayer<T>(
  projections: readonly ReportedProjection[],
  value: (projection: ReportedProjection) => T,
): [layer: number, ...values: T[]][] {
  const layers = new Map<number, T[]>()
  for (const projection of projections) {
    layers.set(projection.layer, [...(layers.get(projection.layer) ?? []), value(projection)])
  }
  return [...layers].map(([layer, values]) => [layer, ...values])
}
