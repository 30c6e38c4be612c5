/** How a tensor's numbers lie in its file. GGUF block types keep their GGML names. */
export type TensorType =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'I32'
  | 'I8'
  | 'U8'
  | 'Q8_0'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'Q4_K'
  | 'Q5_K'
  | 'Q6_K'
  | 'Q2_K'
  | 'Q3_K'
  | 'IQ4_NL'
  | 'IQ4_XS'

/** Where one tensor lies. Offsets are absolute in the file, and already checked to lie inside it. */
export interface TensorSource {
  /** Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`, whatever the file calls it. */
  name: string
  /** What the file calls it, where that is another name. Errors use this one. */
  storedName?: string
  file: string
  offset: number
  byteLength: number
  type: TensorType
  /** Row-major shape, outermost first (so [out, in] for a linear layer). */
  shape: number[]
  /**
   * Set for q and k of GGUF llama files, whose rows are interleaved pairs for llama.cpp's rotary layout:
   * the number of heads to undo it over.
   */
  interleavedHeads?: number
  /** What the file's values have beyond Hugging Face's: 1 for the norms of GGUF gemma files. */
  excess?: number
}

export type Architecture =
  | 'cwm'
  | 'gemma3_text'
  | 'granite'
  | 'internlm3'
  | 'iquestcoder'
  | 'llama'
  | 'ministral'
  | 'ministral3'
  | 'mistral'
  | 'phi3'
  | 'qwen2'
  | 'qwen3'
  | 'seed_oss'
  | 'smollm3'

/** What an MLP does to the gate before it multiplies `up`; GeLU is approximated by tanh. */
export type Activation = 'silu' | 'gelu-tanh'

/** A rotary embedding. */
export interface Rope {
  /** Radians per position of each pair (i, i + R), scaling applied; dimensions from 2 R on stay. [R <= headDim / 2] */
  frequencies: number[]
  /** Factor on cos and sin (attention scaling of yarn and longrope); 1 elsewhere. */
  scale: number
}

/** What the forward pass needs to know of a model; all of it from its config, nothing assumed. */
export interface ModelConfig {
  architecture: Architecture
  layers: number
  hiddenSize: number
  heads: number
  kvHeads: number
  headDim: number
  /** Channels of an MLP none of which was dropped. */
  intermediateSize: number
  /** Channels left in each layer's MLP, 1 to intermediateSize, of a model some of whose were dropped. [layers] */
  intermediateSizes?: number[]
  vocabSize: number
  /** Positions offered: of longrope those before its factors change, of ministral3 those before queries are scaled. */
  contextLength: number
  rmsNormEps: number
  tieEmbeddings: boolean
  /** Biases on q, k, v; on o; on gate, up, down. */
  qkvBias: boolean
  outputBias: boolean
  mlpBias: boolean
  /** RMS norm over each head of q and k (gemma3, qwen3). */
  qkNorm: boolean
  /** RMS norms over what attention and the MLP put out, before it joins the hidden states (gemma3). */
  outputNorms: boolean
  /** What norms multiply by beyond the weights that are stored: 1 in gemma3. */
  normOffset: number
  activation: Activation
  /** Factors on embeddings; on queries, whose scores are divided by sqrt(headDim) besides; on what a layer adds; on logits. */
  embeddingScale: number
  queryScale: number
  residualScale: number
  logitScale: number
  /** Attention window in tokens of each layer; 0 is full attention. [layers] */
  slidingWindow: number[]
  ropes: Rope[]
  /** Which of them turns each layer's heads; -1 for none. [layers] */
  layerRope: number[]
  bosTokenId: number | undefined
  eosTokenIds: number[]
  /** The Hugging Face config.json of the source: as read, or built from GGUF metadata. */
  source: Record<string, unknown>
}

/** What a tokenizer is made of, in Hugging Face form. */
export interface TokenizerSource {
  /** Contents of tokenizer.json (read, or built from GGUF metadata). */
  tokenizer: Record<string, unknown>
  /** Contents of tokenizer_config.json. */
  config: Record<string, unknown>
  chatTemplate: string | undefined
}

/** One level of an FLRC checkpoint. */
export interface StoredLevel {
  /** Active budget: block parameters read per token / dense block parameters. */
  budget: number
  /** Per projection (name without `.weight`): its rank, or `dense`. */
  ranks: Record<string, number | 'dense'>
}

export type StorageDtype = 'f32' | 'bf16' | 'int8' | 'int4'

/** The `flrc` object of a checkpoint's config.json. */
export interface FlrcHeader {
  version: number
  keep: number
  levels: StoredLevel[]
  dtype: StorageDtype
  /** Channels left in each layer's MLP, where some were dropped; `source` says the whole model's. [layers] */
  intermediateSizes?: number[]
  /** pivoted: NAME.P.b, NAME.C.b, NAME.I.b; plain: NAME.U, NAME.V. */
  storage: 'pivoted' | 'plain'
  /** The schedule that `calibrated` means, in the command line's words. */
  schedule?: string
  source?: Record<string, unknown>
}

/** A model on disk, opened: header data only, no weights read. */
export interface ModelSource {
  format: 'huggingface' | 'gguf' | 'flrc'
  /** Directory or file, as given. */
  path: string
  config: ModelConfig
  tensors: Map<string, TensorSource>
  /** Made at the first call, because vocabularies are large. E_TOKENIZER. */
  tokenizer(): TokenizerSource
  /** generation_config.json where there is one. */
  generation: Record<string, unknown> | undefined
  /** Present for FLRC checkpoints. */
  flrc: FlrcHeader | undefined
  /** Repository `org/name` and commit, of a model that came from the hub. */
  hub?: { id: string; revision: string }
  /** Sum of the sizes of the weight files in bytes. */
  fileBytes: number
  /** The hub's identifier of the licence, where the file or the model card names it. */
  license(): Promise<string | undefined>
}
