import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { isObject } from './files.js'
import type { Rope } from './types.js'

const positive = v.pipe(v.number(), v.finite(), v.gtValue(0))
const optionalPositive = v.nullish(positive)
const optionalPositions = v.nullish(v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(2 ** 31 - 1)))

/** Fields of rope_scaling (`type` or `rope_type`) and of the newer rope_parameters (with rope_theta inside). */
const parametersFields = v.looseObject({
  rope_type: v.nullish(v.string()),
  type: v.nullish(v.string()),
  rope_theta: optionalPositive,
  partial_rotary_factor: v.nullish(v.number()),
  factor: optionalPositive,
  original_max_position_embeddings: optionalPositions,
  low_freq_factor: optionalPositive,
  high_freq_factor: optionalPositive,
  attention_factor: optionalPositive,
  beta_fast: optionalPositive,
  beta_slow: optionalPositive,
  mscale: v.nullish(v.number()),
  mscale_all_dim: v.nullish(v.number()),
  truncate: v.nullish(v.boolean()),
  llama_4_scaling_beta: v.nullish(v.number()),
  short_factor: v.nullish(v.array(positive)),
  long_factor: v.nullish(v.array(positive)),
})

/** Valibot's objects alone would take an array for an empty one. */
const parametersSchema = v.pipe(
  v.custom<Record<string, unknown>>(isObject, 'Expected Object'),
  parametersFields,
)

/** The part of a Hugging Face config that decides the rotary embedding. */
export const ropeConfigEntries = {
  rope_theta: optionalPositive,
  // Empty is as good as missing; rope_parameters count then, and they may be empty.
  rope_scaling: v.nullish(
    v.pipe(
      parametersSchema,
      v.transform((given) => (Object.keys(given).length === 0 ? undefined : given)),
    ),
  ),
  rope_parameters: v.nullish(parametersSchema),
  partial_rotary_factor: v.nullish(v.number()),
  original_max_position_embeddings: optionalPositions,
  /**
   * Ours, for GGUF files with frequency factors beside another scaling, and in checkpoints of earlier versions: each pair's
   * frequency is divided by its factor. [pairs]
   */
  flrc_rope_factors: v.nullish(v.array(positive)),
}
const ropeConfigSchema = v.object(ropeConfigEntries)
export type RopeConfig = v.InferOutput<typeof ropeConfigSchema>
type Parameters = v.InferOutput<typeof parametersSchema>

export interface RopeShape {
  headDim: number
  /** Whether models of this architecture may rotate some dimensions of a head and leave the others. */
  partial?: boolean
  maxPositions: number
  /** What other names of a scaling mean in models of this architecture. */
  renamed?: Readonly<Record<string, string>>
}

/** With the dimensions of a head that are rotated. */
type Rotated = RopeShape & { dimension: number }

export interface RopeOfPositions extends Rope {
  /** How many positions they are right for. */
  positions: number
}

export const ropeTypes = ['default', 'dynamic', 'linear', 'llama3', 'longrope', 'yarn'] as const

function missing(file: string, type: string, field: string): FlrcError {
  return new FlrcError(
    'E_MODEL_FORMAT',
    `${file}: rope scaling ${type} without ${field}; download the file again`,
    { file },
  )
}

function wrongFactors(file: string, factors: number, frequencies: number, field: string): FlrcError {
  return new FlrcError(
    'E_MODEL_FORMAT',
    `${file}: ${factors} rope factors in ${field} for ${frequencies} frequencies; download the file again`,
    { file },
  )
}

/** Wavelengths beyond the trained context are stretched, short ones kept, those between blended (Llama 3.1). */
function llama3(base: number[], parameters: Parameters, original: number, file: string): number[] {
  const { factor, low_freq_factor: low, high_freq_factor: high } = parameters
  if (!factor) throw missing(file, 'llama3', 'factor')
  if (!low || !high || high <= low) throw missing(file, 'llama3', 'low_freq_factor < high_freq_factor')
  return base.map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency
    if (wavelength < original / high) return frequency
    if (wavelength > original / low) return frequency / factor
    const smooth = (original / wavelength - low) / (high - low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
}

/** NTK-by-parts interpolation, YaRN (Peng et al. 2023, arXiv 2309.00071), as transformers computes it. */
function yarn(base: number[], theta: number, parameters: Parameters, original: number, shape: Rotated): Rope {
  const factor = parameters.factor ?? shape.maxPositions / original
  const { mscale, mscale_all_dim: mscaleAllDim, attention_factor: attentionFactor } = parameters
  const magnitude = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)
  const scale =
    attentionFactor ?? (mscale && mscaleAllDim ? magnitude(mscale) / magnitude(mscaleAllDim) : magnitude(1))

  const { dimension } = shape
  const correction = (rotations: number) =>
    (dimension * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const truncate = parameters.truncate ?? true
  const lowest = correction(parameters.beta_fast ?? 32)
  const highest = correction(parameters.beta_slow ?? 1)
  const low = Math.max(truncate ? Math.floor(lowest) : lowest, 0)
  const high = Math.min(truncate ? Math.ceil(highest) : highest, dimension - 1)
  // The small step is transformers' own guard against an empty range.
  const width = high === low ? 0.001 : high - low
  const frequencies = base.map((frequency, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / width))
    return (frequency / factor) * ramp + frequency * (1 - ramp)
  })
  return { frequencies, scale }
}

/** Attention scaling of longrope by how much longer the context is made than it was trained. */
export function longropeScale(factor: number, original: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
}

/**
 * LongRoPE (Ding et al. 2024, arXiv 2402.13753), as transformers computes it: a divisor for each frequency, of one list up to
 * the trained context and of another beyond it. A sequence that grows past it would need all its keys rotated again,
 * so positions end there.
 */
function longrope(
  base: number[],
  parameters: Parameters,
  original: number,
  shape: RopeShape,
  file: string,
): RopeOfPositions {
  const { short_factor: short, long_factor: long } = parameters
  for (const [name, factors] of [
    ['short_factor', short],
    ['long_factor', long],
  ] as const) {
    if (!factors) throw missing(file, 'longrope', name)
    if (factors.length !== base.length) throw wrongFactors(file, factors.length, base.length, name)
  }
  const factor = parameters.factor ?? shape.maxPositions / original
  return {
    frequencies: base.map((frequency, i) => frequency / (short?.[i] ?? 1)),
    scale: parameters.attention_factor ?? longropeScale(factor, original),
    positions: Math.min(original, shape.maxPositions),
  }
}

function scaled(
  parameters: Parameters,
  theta: number,
  config: RopeConfig,
  shape: Rotated,
  file: string,
): RopeOfPositions {
  const { dimension, maxPositions: positions } = shape
  // An odd dimension is rounded up to pairs, whose exponents are still its own.
  const base = Array.from({ length: Math.ceil(dimension / 2) }, (_, i) => theta ** ((-2 * i) / dimension))
  const original =
    config.original_max_position_embeddings ?? parameters.original_max_position_embeddings ?? positions
  const type = parameters.rope_type ?? parameters.type ?? 'default'
  switch (shape.renamed?.[type] ?? type) {
    case 'default':
    // Dynamic scaling begins beyond the positions offered.
    case 'dynamic':
      return { frequencies: base, scale: 1, positions }
    case 'linear': {
      const { factor } = parameters
      if (!factor) throw missing(file, type, 'factor')
      return { frequencies: base.map((frequency) => frequency / factor), scale: 1, positions }
    }
    case 'llama3':
      return { frequencies: llama3(base, parameters, original, file), scale: 1, positions }
    case 'longrope':
      return longrope(base, parameters, original, shape, file)
    case 'yarn':
      return { ...yarn(base, theta, parameters, original, shape), positions }
    default:
      throw new FlrcError(
        'E_UNSUPPORTED_ARCH',
        `${file}: rope scaling ${JSON.stringify(type)} is not supported; supported are ${ropeTypes.join(', ')}`,
        { file },
      )
  }
}

/**
 * Rotary frequencies of a Hugging Face config, as transformers' modeling_rope_utils computes them, rounded
 * to float32 because that is how every published model has been run. `file` names the config in errors.
 * Throws E_UNSUPPORTED_ARCH for other scalings, E_MODEL_FORMAT for missing parameters.
 */
export function ropeOf(config: RopeConfig, shape: RopeShape, file: string): RopeOfPositions {
  const parameters = config.rope_scaling ?? config.rope_parameters ?? {}
  const theta = parameters.rope_theta ?? config.rope_theta ?? 10_000
  const partial = parameters.partial_rotary_factor ?? config.partial_rotary_factor ?? 1
  if (partial !== 1 && !shape.partial) {
    throw new FlrcError(
      'E_UNSUPPORTED_ARCH',
      `${file}: partial_rotary_factor ${partial} is not supported for models of this kind; choose one that rotates whole heads`,
      { file },
    )
  }
  const dimension = Math.trunc(shape.headDim * partial)
  if (dimension < 1 || dimension > shape.headDim) {
    throw new FlrcError(
      'E_MODEL_FORMAT',
      `${file}: partial_rotary_factor ${partial} of heads of ${shape.headDim} rotates ${dimension} dimensions; download the file again`,
      { file },
    )
  }
  const nested = Object.keys(parameters).find((key) => key.endsWith('_attention'))
  if (nested !== undefined) {
    throw new FlrcError(
      'E_UNSUPPORTED_ARCH',
      `${file}: rotary parameters per kind of layer (${nested}) are not supported; choose another model`,
      { file },
    )
  }
  const { frequencies, ...rest } = scaled(parameters, theta, config, { ...shape, dimension }, file)
  const factors = config.flrc_rope_factors
  if (factors && factors.length !== frequencies.length) {
    throw wrongFactors(file, factors.length, frequencies.length, 'flrc_rope_factors')
  }
  return { ...rest, frequencies: frequencies.map((f, i) => Math.fround(f / (factors?.[i] ?? 1))) }
}
