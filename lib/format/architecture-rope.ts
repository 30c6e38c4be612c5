import { type RopeConfig, type RopeOfPositions, type RopeShape, ropeOf } from './rope.js'
import type { Architecture } from './types.js'

/** How CwmConfig scales rotations unless told. */
const cwmScaling = {
  rope_type: 'llama3',
  factor: 16,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
}

/** How Ministral3Config scales rotations unless told. */
const ministral3Scaling = {
  rope_type: 'yarn',
  factor: 16,
  original_max_position_embeddings: 16_384,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
  llama_4_scaling_beta: 0.1,
}

/** Phi3Config trains at 4096 positions unless told, and takes these older names for longrope. */
const phi3Rope = { original: 4096, partial: true, renamed: { su: 'longrope', yarn: 'longrope' } }

/** The rotation of a config's heads, with what its architecture fills in. Errors: those of `ropeOf`. */
export function ropeOfArchitecture(
  architecture: Architecture,
  config: RopeConfig,
  shape: RopeShape,
  file: string,
): RopeOfPositions {
  switch (architecture) {
    case 'cwm': {
      const own = config.rope_scaling ?? config.rope_parameters ?? cwmScaling
      return ropeOf({ ...config, rope_scaling: own }, shape, file)
    }
    case 'ministral3': {
      const own = config.rope_scaling ?? config.rope_parameters ?? ministral3Scaling
      const rope = ropeOf({ ...config, rope_scaling: own }, shape, file)
      // From the trained context on, queries grow with the logarithm of their position.
      const trained = own.llama_4_scaling_beta ? own.original_max_position_embeddings : undefined
      return { ...rope, positions: Math.min(rope.positions, trained ?? rope.positions) }
    }
    case 'phi3': {
      const { original, ...own } = phi3Rope
      const trained = config.original_max_position_embeddings ?? original
      return ropeOf({ ...config, original_max_position_embeddings: trained }, { ...shape, ...own }, file)
    }
    default:
      return ropeOf(config, shape, file)
  }
}
