import type { ProjectionShape } from './allocate.js'
import { FlrcError } from './errors.js'
import { type ProjectionKind, projectionNames } from './format/projections.js'
import type { ModelConfig, StoredLevel } from './format/types.js'

/** One of the seven linear layers of a block. */
export interface Projection extends ProjectionShape {
  layer: number
  kind: ProjectionKind
}

/** All projections of a model in the order of the native side: layer by layer, q k v o gate up down. */
export function projectionsOf(config: ModelConfig): Projection[] {
  return projectionNames(config).map(({ name, layer, kind, out, in: inputs }) => ({
    name,
    layer,
    kind,
    rows: out,
    cols: inputs,
  }))
}

/** A level's ranks by name as the native side takes them: in projection order, -1 for dense. */
export function rankVector(ranks: StoredLevel['ranks'], projections: readonly Projection[]): Int32Array {
  return Int32Array.from(projections, ({ name }) => {
    const rank = ranks[name]
    if (rank === undefined) {
      throw new FlrcError('E_MODEL_FORMAT', `a level gives no rank for ${name}; write the checkpoint again`, {
        tensor: name,
      })
    }
    return rank === 'dense' ? -1 : rank
  })
}
