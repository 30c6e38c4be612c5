import { checkObject } from './check.js'
import { fused } from './checkpoint/fuse.js'
import { writeDenseModel } from './checkpoint/write.js'
import { checkModel, type LoadedModel, type TaskOptions } from './model.js'

export interface ExportOptions extends TaskOptions {
  /** Replaces a model directory that is already there; without it that is E_EXISTS. */
  overwrite?: boolean
}

export interface ExportResult {
  directory: string
  /** Bytes of the weight files. */
  bytes: number
}

/**
 * Writes a model as a dense Hugging Face directory, factors multiplied out at level 0, for transformers, vLLM
 * and llama.cpp's converter. Errors: E_EXISTS, E_IO, E_DISPOSED, E_ABORTED.
 */
export async function exportModel(
  model: LoadedModel,
  directory: string,
  options: ExportOptions = {},
): Promise<ExportResult> {
  checkModel(model)
  checkObject('the third argument', options, 'options, such as { overwrite: true }')
  const { overwrite, signal, onProgress } = options
  const { source } = model
  const separate = {
    entries: model.tensorEntries(true),
    writeTensors: (file: string, names: string[], offsets: Float64Array) =>
      model.writeTensors(file, names, offsets, true, { signal, onProgress }),
  }
  const { bytes } = await writeDenseModel(
    directory,
    {
      config: source.config.source,
      tokenizer: source.tokenizer(),
      generation: source.generation,
      ...fused(separate, source.config),
    },
    { overwrite, source: source.path, signal },
  )
  return { directory, bytes }
}
