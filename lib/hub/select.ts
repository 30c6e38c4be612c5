import { FlrcError } from '../errors.js'
import type { HubFile } from './blob.js'
import { type HubReference, referenceText } from './reference.js'

/** Read where they are there. A checkpoint's plan is for `flrc inspect`. */
const optional = [
  'generation_config.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'flrc-plan.json',
]
export const indexFile = 'model.safetensors.index.json'

function lacks(reference: HubReference, problem: string, remedy: string): FlrcError {
  const text = referenceText(reference)
  return new FlrcError('E_MODEL_FORMAT', `${text}: ${problem}; ${remedy}`, { file: text })
}

/**
 * The files of a repository that a model is made of: small ones first, and in `weights` either the weights or,
 * where they are sharded, the index that names them. Throws E_MODEL_FORMAT where the repository has none to load.
 */
export function selectFiles(
  reference: HubReference,
  files: ReadonlyMap<string, HubFile>,
): { small: HubFile[]; weights: HubFile } {
  const weights = files.get('model.safetensors') ?? files.get(indexFile)
  if (weights === undefined) {
    const ggufs = [...files.keys()].filter((file) => file.endsWith('.gguf'))
    if (ggufs.length > 0) {
      const { repo, revision } = reference
      const named = ggufs.map((file) => referenceText({ repo, file, revision }))
      throw lacks(reference, 'has GGUF files only', `name one of them: ${named.join(', ')}`)
    }
    const pickled = files.has('pytorch_model.bin') || files.has('pytorch_model.bin.index.json')
    if (pickled) {
      const remedy = "convert it to safetensors with transformers' save_pretrained"
      throw lacks(reference, 'has only pytorch_model.bin, which is not read because it can run code', remedy)
    }
    throw lacks(reference, 'has no model.safetensors', 'choose a repository that holds a language model')
  }
  const needed = ['config.json', 'tokenizer.json'].map((name) => {
    const file = files.get(name)
    if (file) return file
    throw lacks(
      reference,
      `has no ${name}`,
      "make it with transformers' save_pretrained, or choose another model",
    )
  })
  const extra = optional.map((name) => files.get(name)).filter((file) => file !== undefined)
  return { small: [...needed, ...extra], weights }
}
