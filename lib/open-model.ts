import { checkPath, refuse } from './check.js'
import { statIfThere } from './format/files.js'
import type { ModelSource } from './format/types.js'
import { parseHubReference } from './hub/reference.js'
import type { TaskOptions } from './model.js'
import { openModelSource } from './model-source.js'

/**
 * Opens a model by its path, or by its hub id (`org/name`, `org/name/file.gguf`, each with `@revision` or without)
 * where nothing is at that path. Throws what `openModelSource` and `fetchModel` do.
 */
export async function openModel(model: string, task: TaskOptions = {}): Promise<ModelSource> {
  checkPath('the model', model, 'a path or the id of a model of the hub')
  if (model === '') refuse('the model', 'empty', 'a path or the id of a model of the hub')
  const reference = (await statIfThere(model)) ? undefined : parseHubReference(model)
  if (reference === undefined) return openModelSource(model, task.signal)
  // Only who loads from the hub pays for its client.
  const { fetchModel } = await import('./hub.js')
  const { path, commit } = await fetchModel(reference, task)
  return { ...(await openModelSource(path, task.signal)), hub: { id: reference.repo, revision: commit } }
}
