import { FlrcError } from '../errors.js'
import { isObject } from './files.js'
import { type RopeConfig, type RopeOfPositions, type RopeShape, ropeOf } from './rope.js'
import type { ModelConfig, Rope } from './types.js'

export interface LayerRopes extends Pick<ModelConfig, 'ropes' | 'layerRope'> {
  /** How many positions they are right for. */
  positions: number
}

const plainRope = ({ frequencies, scale }: Rope): Rope => ({ frequencies, scale })

/** One rotation for all layers but those of `use` that are false. */
export function oneRope(rope: RopeOfPositions, use: readonly boolean[]): LayerRopes {
  const layerRope = use.map((turned) => (turned ? 0 : -1))
  return { ropes: [plainRope(rope)], layerRope, positions: rope.positions }
}

/**
 * One rotation for layers that attend to everything and one for those with a sliding window, which no scaling applies to
 * unless rope_parameters names it there. As in transformers, rope_parameters that are not by kind say nothing.
 */
export function ropePerKind(
  config: RopeConfig & { rope_local_base_freq?: number | null | undefined },
  shape: RopeShape,
  slides: readonly boolean[],
  file: string,
): LayerRopes {
  const { rope_parameters, rope_scaling, rope_local_base_freq, ...rest } = config
  const of = (kind: string) => {
    const value = rope_parameters?.[kind]
    if (value === undefined || value === null) return undefined
    if (isObject(value)) return value
    throw new FlrcError(
      'E_MODEL_FORMAT',
      `${file}: rope_parameters.${kind} is no object; download the file again`,
      {
        file,
      },
    )
  }
  const local = { rope_theta: rope_local_base_freq ?? 10_000, rope_parameters: of('sliding_attention') }
  const ropes = [
    ropeOf({ ...rest, rope_parameters: { ...of('full_attention'), ...rope_scaling } }, shape, file),
    ropeOf(local, shape, file),
  ]
  return {
    ropes: ropes.map(plainRope),
    layerRope: slides.map((sliding) => (sliding ? 1 : 0)),
    positions: Math.min(...ropes.map(({ positions }) => positions)),
  }
}
