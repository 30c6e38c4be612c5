import path from 'node:path'
import { abortedError, FlrcError } from './errors.js'
import { statIfThere } from './format/files.js'
import { ggufParts } from './format/gguf-split.js'
import { shardNames } from './format/safetensors.js'
import { fetchBlob, type HubFile } from './hub/blob.js'
import { RepositoryCache } from './hub/cache.js'
import { HubClient, isUnreachable } from './hub/client.js'
import { type HubReference, referenceText } from './hub/reference.js'
import { indexFile, selectFiles } from './hub/select.js'
import { hubSettings } from './hub/settings.js'
import type { TaskOptions } from './model.js'

/** A model in the hub's cache. */
export interface CachedModel {
  /** Directory or GGUF file to open. */
  path: string
  commit: string
}

/**
 * Brings the files a model is loaded from into the Hugging Face cache, unless they are there, and says where. An
 * unreachable hub (or HF_HUB_OFFLINE) leaves what the cache has.
 *
 * @throws E_HUB (not reachable, no access, wrong checksum, offline and not cached), E_NOT_FOUND, E_MODEL_FORMAT (no
 * weights that can be read), E_IO, E_ABORTED
 */
export async function fetchModel(reference: HubReference, task: TaskOptions = {}): Promise<CachedModel> {
  const settings = await hubSettings()
  const cache = new RepositoryCache(settings.cache, reference.repo)
  if (task.signal?.aborted) throw abortedError()
  if (settings.offline) {
    const cached = await cache.complete(reference)
    if (cached) return cached
    const text = referenceText(reference)
    throw new FlrcError(
      'E_HUB',
      `${text}: no such file or directory here, nor is all of it in the cache (${settings.cache}), and HF_HUB_OFFLINE is set; unset it to download`,
      { file: text },
    )
  }
  const client = new HubClient(reference, settings, task.signal)
  let commit: string
  try {
    commit = await client.commit()
  } catch (error) {
    const cached = isUnreachable(error) ? await cache.complete(reference) : undefined
    if (cached) return cached
    throw error
  }
  await download(reference, { client, cache, commit }, task)
  await cache.writeRef(reference.revision, commit)
  return { path: path.join(cache.snapshot(commit), reference.file ?? ''), commit }
}

interface Place {
  client: HubClient
  cache: RepositoryCache
  commit: string
}

/** Small files first, so that a snapshot with weights has all else too. */
async function download(reference: HubReference, place: Place, task: TaskOptions): Promise<void> {
  const { client, cache, commit } = place
  const folder = reference.file === undefined ? '.' : path.posix.dirname(reference.file)
  const files = await client.files(commit, folder === '.' ? '' : folder)
  if (reference.file !== undefined) {
    const parts = (ggufParts(reference.file) ?? [reference.file]).map((name) => {
      const file = files.get(name)
      if (file) return file
      throw noSuchFile({ ...reference, file: name }, files)
    })
    return fetchAll(place, 'download', parts, task)
  }
  const { small, weights } = selectFiles(reference, files)
  const sharded = weights.path === indexFile
  await fetchAll(place, 'download configuration', sharded ? [...small, weights] : small, task)
  const shards = sharded ? await shardNames(cache.snapshot(commit)) : [weights.path]
  const listed = shards.map((name) => {
    const file = files.get(name)
    if (file) return file
    throw client.error(`has no file ${name}, which ${indexFile} names`, 'choose another revision')
  })
  await fetchAll(place, 'download weights', listed, task)
}

function noSuchFile(reference: HubReference, files: ReadonlyMap<string, HubFile>): FlrcError {
  const text = referenceText(reference)
  const others = [...files.keys()].filter((file) => file.endsWith('.gguf'))
  const there = others.length > 0 ? `it has ${others.join(', ')}` : 'it has no GGUF files there'
  return new FlrcError('E_NOT_FOUND', `${text}: the repository has no such file; ${there}`, { file: text })
}

async function fetchAll(
  { client, cache, commit }: Place,
  stage: string,
  files: readonly HubFile[],
  { signal, onProgress }: TaskOptions,
): Promise<void> {
  const total = files.reduce((sum, { size }) => sum + size, 0)
  const whole = async (file: string, size: number) => (await statIfThere(file))?.size === size
  let before = 0
  for (const file of files) {
    const { path: name, size, etag } = file
    const onBytes = (bytes: number) => onProgress?.({ stage, done: before + bytes, total, unit: 'bytes' })
    if (!(await whole(path.join(cache.snapshot(commit), name), size))) {
      const blob = cache.blob(etag)
      if (!(await whole(blob, size))) {
        const read = client.reader(commit, name)
        await client.retry(() => fetchBlob(file, blob, read, { onBytes, signal }))
      }
      await cache.link(commit, name, etag)
    }
    onBytes(size)
    before += size
  }
}
