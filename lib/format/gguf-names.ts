const outer: [ggml: string, huggingFace: string][] = [
  ['token_embd', 'model.embed_tokens'],
  ['output_norm', 'model.norm'],
  ['output', 'lm_head'],
]

const inLayer: [ggml: string, huggingFace: string][] = [
  ['attn_norm', 'input_layernorm'],
  ['attn_q', 'self_attn.q_proj'],
  ['attn_k', 'self_attn.k_proj'],
  ['attn_v', 'self_attn.v_proj'],
  ['attn_output', 'self_attn.o_proj'],
  ['attn_q_norm', 'self_attn.q_norm'],
  ['attn_k_norm', 'self_attn.k_norm'],
  ['ffn_norm', 'post_attention_layernorm'],
  ['ffn_gate', 'mlp.gate_proj'],
  ['ffn_up', 'mlp.up_proj'],
  ['ffn_down', 'mlp.down_proj'],
]

/** Of phi3, whose `ffn_up` has gate's rows before up's. */
const fused: [ggml: string, huggingFace: string][] = [
  ['attn_qkv', 'self_attn.qkv_proj'],
  ['ffn_up', 'mlp.gate_up_proj'],
]

/** Of gemma3, whose outputs have norms of their own. */
const withOutputNorms: [ggml: string, huggingFace: string][] = [
  ['post_attention_norm', 'post_attention_layernorm'],
  ['ffn_norm', 'pre_feedforward_layernorm'],
  ['post_ffw_norm', 'post_feedforward_layernorm'],
]

const outerFromGgml = new Map(outer)
const layerFromGgml = new Map(inLayer)
const phi3LayerFromGgml = new Map([...inLayer, ...fused])
const gemma3LayerFromGgml = new Map([...inLayer, ...withOutputNorms])
const outerToGgml = new Map(outer.map(([ggml, name]) => [name, ggml]))

const layersFromGgml = new Map([
  ['gemma3', gemma3LayerFromGgml],
  ['phi3', phi3LayerFromGgml],
])
const inLayersOf = (ggmlArchitecture: string) => layersFromGgml.get(ggmlArchitecture) ?? layerFromGgml

/**
 * `blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`; undefined for tensors with no such name in models of
 * this `general.architecture`.
 */
export function huggingFaceName(ggmlArchitecture: string, ggml: string): string | undefined {
  const match = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(ggml)
  if (!match) return undefined
  const [, layer, stem = '', kind] = match
  const name = layer === undefined ? outerFromGgml.get(stem) : inLayersOf(ggmlArchitecture).get(stem)
  if (name === undefined) return undefined
  return layer === undefined ? `${name}.${kind}` : `model.layers.${Number(layer)}.${name}.${kind}`
}

/** The other way round, for tensors that are not fused. */
export function ggufName(ggmlArchitecture: string, huggingFace: string): string | undefined {
  const match = /^(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(huggingFace)
  if (!match) return undefined
  const [, layer, stem = '', kind] = match
  const inLayers = [...inLayersOf(ggmlArchitecture)].map(([ggml, name]) => [name, ggml] as const)
  const name = (layer === undefined ? outerToGgml : new Map(inLayers)).get(stem)
  if (name === undefined) return undefined
  return layer === undefined ? `${name}.${kind}` : `blk.${layer}.${name}.${kind}`
}

const interleaving = ['granite', 'llama', 'mistral3', 'smollm3']

/** Whether llama.cpp stores this tensor with each head's rows as interleaved pairs: q and k of `llama` and its kin. */
export function isInterleaved(ggmlArchitecture: string, ggml: string): boolean {
  return interleaving.includes(ggmlArchitecture) && /^blk\.\d+\.attn_[qk]\.(weight|bias)$/.test(ggml)
}

/** What llama.cpp stores this tensor with beyond its published values: gemma's norms as what they multiply by. */
export function ggufExcess(ggmlArchitecture: string, ggml: string): number {
  return ggmlArchitecture === 'gemma3' && ggml.endsWith('_norm.weight') ? 1 : 0
}
