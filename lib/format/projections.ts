import type { Architecture, ModelConfig } from './types.js'

export const projectionKinds = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const

export type ProjectionKind = (typeof projectionKinds)[number]

/** One linear layer that FLRC may factorise. */
export interface Projection {
  /** Hugging Face name without `.weight`, such as `model.layers.0.self_attn.q_proj`. */
  name: string
  layer: number
  kind: ProjectionKind
  /** Rows of the weight, [out, in]. */
  out: number
  in: number
}

/** What of a model's shape decides its projections. */
export type ProjectionShape = Pick<
  ModelConfig,
  'layers' | 'hiddenSize' | 'heads' | 'kvHeads' | 'headDim' | 'intermediateSize' | 'intermediateSizes'
>

/** All projections in the order used everywhere: layer by layer q, k, v, o, gate, up, down. */
export function projectionNames(config: ProjectionShape): Projection[] {
  const { layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, intermediateSizes } = config
  const block = (channels: number): [ProjectionKind, string, number, number][] => [
    ['q', 'self_attn.q_proj', heads * headDim, hiddenSize],
    ['k', 'self_attn.k_proj', kvHeads * headDim, hiddenSize],
    ['v', 'self_attn.v_proj', kvHeads * headDim, hiddenSize],
    ['o', 'self_attn.o_proj', hiddenSize, heads * headDim],
    ['gate', 'mlp.gate_proj', channels, hiddenSize],
    ['up', 'mlp.up_proj', channels, hiddenSize],
    ['down', 'mlp.down_proj', hiddenSize, channels],
  ]
  return Array.from({ length: layers }, (_, layer) =>
    block(intermediateSizes?.[layer] ?? intermediateSize).map(([kind, path, out, width]) => ({
      name: `model.layers.${layer}.${path}`,
      layer,
      kind,
      out,
      in: width,
    })),
  ).flat()
}

/** The same with all channels of the MLPs, also where some were dropped: what budgets are shares of. */
export function wholeProjections(config: ProjectionShape): Projection[] {
  return projectionNames({ ...config, intermediateSizes: undefined })
}

/** Block parameters of the dense model, with all channels of its MLPs. */
export function denseBlockParameters(config: ProjectionShape): number {
  return wholeProjections(config).reduce((sum, { out, in: width }) => sum + out * width, 0)
}

/** Projections of one layer that lie in a model's files as one tensor: the first one's rows, then the next one's. */
export interface FusedProjection {
  /** Hugging Face name without `.weight`, such as `model.layers.0.self_attn.qkv_proj`. */
  name: string
  parts: Projection[]
}

/** What the files of an architecture fuse, by its path in a layer. Checkpoints of ours hold every projection alone. */
const fusions: Partial<Record<Architecture, readonly (readonly [path: string, kinds: string])[]>> = {
  phi3: [
    ['self_attn.qkv_proj', 'q k v'],
    ['mlp.gate_up_proj', 'gate up'],
  ],
}

/** All fused projections, layer by layer. */
export function fusedProjections(
  config: ProjectionShape & Pick<ModelConfig, 'architecture'>,
): FusedProjection[] {
  const all = projectionNames(config)
  const inLayer = fusions[config.architecture] ?? []
  return Array.from({ length: inLayer.length === 0 ? 0 : config.layers }, (_, layer) => {
    const first = layer * projectionKinds.length
    const projections = all.slice(first, first + projectionKinds.length)
    return inLayer.map(([path, kinds]) => ({
      name: `model.layers.${layer}.${path}`,
      parts: projections.filter(({ kind }) => kinds.split(' ').includes(kind)),
    }))
  }).flat()
}

// In one piece, or in the parts of an int8 or int4 checkpoint.
const embedding = /^model\.embed_tokens\.weight(\.(q|scale|zero))?$/
const head = /^lm_head\.weight(\.(q|scale|zero))?$/
const layerTensor = /^model\.layers\.(\d+)\.(.+)$/
const layerParts =
  /^(input_layernorm\.weight|post_attention_layernorm\.weight|(pre|post)_feedforward_layernorm\.weight|self_attn\.[qk]_norm\.weight|(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\..+)$/

/** Whether the forward pass reads a tensor of this Hugging Face name, fused or not. */
export function isModelTensor(
  name: string,
  config: Pick<ModelConfig, 'architecture' | 'layers' | 'tieEmbeddings'>,
): boolean {
  if (name === 'model.norm.weight' || embedding.test(name)) return true
  if (head.test(name)) return !config.tieEmbeddings
  const match = layerTensor.exec(name)
  if (match === null || Number(match[1]) >= config.layers) return false
  const part = match[2] ?? ''
  const fused = fusions[config.architecture]?.some(
    ([path]) => part === `${path}.weight` || part === `${path}.bias`,
  )
  return fused || layerParts.test(part)
}
