import { isObject } from './files.js'

/** What the text part of a published model that also sees may leave out, as transformers' Gemma3TextConfig fills it in. */
const gemma3Text = {
  vocab_size: 262_208,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  eos_token_id: 1,
  bos_token_id: 2,
}

/**
 * The config of the language model in a Gemma 3 that also sees, whose pictures we do not read: one of its own, such as
 * transformers writes for text alone. Every other config as it is.
 */
export function textConfig(source: Record<string, unknown>): Record<string, unknown> {
  if (source.model_type !== 'gemma3' || !isObject(source.text_config)) return source
  const dtype = source.dtype ?? source.torch_dtype
  return {
    ...gemma3Text,
    ...source.text_config,
    ...(source.eos_token_id === undefined ? {} : { eos_token_id: source.eos_token_id }),
    ...(dtype === undefined ? {} : { dtype }),
    architectures: ['Gemma3ForCausalLM'],
    model_type: 'gemma3_text',
  }
}
