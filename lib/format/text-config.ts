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

const mistralClass = ({ model_type }: Record<string, unknown>) =>
  model_type === 'ministral3' ? 'Ministral3ForCausalLM' : 'MistralForCausalLM'

/**
 * The config of the language model in a Gemma 3, Mistral Small 3 or Ministral 3 that also sees, whose pictures we do not read:
 * one of its own, such as transformers writes for text alone. Every other config as it is.
 */
export function textConfig(source: Record<string, unknown>): Record<string, unknown> {
  const { model_type: type, text_config: text } = source
  if (!isObject(text) || (type !== 'gemma3' && type !== 'mistral3')) return source
  const dtype = source.dtype ?? source.torch_dtype
  const common = {
    ...(source.eos_token_id === undefined ? {} : { eos_token_id: source.eos_token_id }),
    ...(dtype === undefined ? {} : { dtype }),
  }
  return type === 'gemma3'
    ? { ...gemma3Text, ...text, ...common, architectures: ['Gemma3ForCausalLM'], model_type: 'gemma3_text' }
    : { model_type: 'mistral', ...text, ...common, architectures: [mistralClass(text)] }
}
