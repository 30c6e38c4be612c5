import type { Architecture } from '#lib/format/types.js'

/** What decides the work of compressing a model. */
export interface ModelShape {
  architecture: Architecture
  layers: number
  hidden: number
  intermediate: number
  heads: number
  kvHeads: number
  headDim: number
  vocab: number
  /** Whether the head is the embedding. */
  tied: boolean
  /** Longest sequence. */
  context: number
}

const base = { architecture: 'llama', tied: true, context: 8192 } as const

const llama3of8B: ModelShape = {
  ...base,
  layers: 32,
  hidden: 4096,
  intermediate: 14_336,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  vocab: 128_256,
  tied: false,
}

/** Published models' shapes, and smaller ones like them. `-group`: a few layers with a small vocabulary. */
export const shapes: Readonly<Record<string, ModelShape>> = {
  'llama-3.2-1b': {
    ...base,
    layers: 16,
    hidden: 2048,
    intermediate: 8192,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    vocab: 128_256,
  },
  'llama-3-8b': llama3of8B,
  'llama-3-8b-group': { ...llama3of8B, layers: 1, vocab: 4096, tied: true },
  'llama-3-70b': { ...llama3of8B, layers: 80, hidden: 8192, intermediate: 28_672, heads: 64 },
  small: {
    ...base,
    layers: 4,
    hidden: 512,
    intermediate: 1536,
    heads: 8,
    kvHeads: 4,
    headDim: 64,
    vocab: 4096,
  },
}

export const blockParameters = ({
  layers,
  hidden,
  intermediate,
  heads,
  kvHeads,
  headDim,
}: ModelShape): number => layers * hidden * (2 * heads * headDim + 2 * kvHeads * headDim + 3 * intermediate)

/** Parameters of a model with its embeddings, norms left out. */
export const parameters = (shape: ModelShape): number =>
  blockParameters(shape) + shape.vocab * shape.hidden * (shape.tied ? 1 : 2)
