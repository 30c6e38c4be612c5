import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { abortedError, FlrcError } from '../errors.js'
import { type HeaderEntry, safetensorsHeader } from '../format/safetensors.js'
import { createFile } from './io.js'

/**
 * Writes the named tensors' bytes at these absolute offsets into an existing file of the right size, and
 * flushes it.
 */
export type WriteTensors = (file: string, names: string[], offsets: Float64Array) => Promise<void>

export interface WeightsOptions {
  /** What the files' names begin with; `model` by default. */
  name?: string
  /** Largest shard in bytes of tensor data, unless one tensor alone is larger. Default 5 GB, as on the hub. */
  shardBytes?: number
  signal?: AbortSignal
}

export interface WrittenWeights {
  /** File names in the directory. */
  files: string[]
  /** Sum of their sizes. */
  bytes: number
}

const defaultShardBytes = 5e9

/** Splits the tensors, in their order, into shards of at most `shardBytes`. */
export function planShards(entries: readonly HeaderEntry[], shardBytes: number): HeaderEntry[][] {
  const shards: HeaderEntry[][] = [[]]
  let bytes = 0
  for (const entry of entries) {
    if (bytes > 0 && bytes + entry.byteLength > shardBytes) {
      shards.push([])
      bytes = 0
    }
    shards[shards.length - 1]?.push(entry)
    bytes += entry.byteLength
  }
  return shards
}

function shardName(base: string, index: number, count: number): string {
  if (count === 1) return `${base}.safetensors`
  const pad = (n: number) => String(n).padStart(5, '0')
  return `${base}-${pad(index + 1)}-of-${pad(count)}.safetensors`
}

/**
 * Writes `model.safetensors`, or shards and `model.safetensors.index.json`, into a directory.
 *
 * @throws E_IO naming the file, E_ABORTED between files, E_INTERNAL for tensors that no reader would take back
 */
export async function writeWeights(
  directory: string,
  entries: readonly HeaderEntry[],
  writeTensors: WriteTensors,
  { name: base = 'model', shardBytes = defaultShardBytes, signal }: WeightsOptions = {},
): Promise<WrittenWeights> {
  const shards = planShards(entries, shardBytes)
  const weightMap = new Map<string, string>()
  const written: WrittenWeights = { files: [], bytes: 0 }
  for (const [index, shard] of shards.entries()) {
    if (signal?.aborted) throw abortedError()
    const name = shardName(base, index, shards.length)
    const file = join(directory, name)
    const { header, offsets, fileBytes } = safetensorsHeader(shard)
    await createFile(file, header, fileBytes)
    await writeTensors(
      file,
      shard.map((entry) => entry.name),
      Float64Array.from(offsets),
    )
    const { size } = await stat(file)
    if (size !== fileBytes) {
      throw new FlrcError(
        'E_INTERNAL',
        `${file}: ${size} bytes where ${fileBytes} belong; report this as a bug`,
        {
          file,
        },
      )
    }
    for (const entry of shard) {
      if (weightMap.has(entry.name)) {
        throw new FlrcError(
          'E_INTERNAL',
          `cannot write tensor ${entry.name}: named twice; report this as a bug`,
          {
            tensor: entry.name,
          },
        )
      }
      weightMap.set(entry.name, name)
    }
    written.files.push(name)
    written.bytes += fileBytes
  }
  if (shards.length > 1) {
    const index = {
      metadata: { total_size: entries.reduce((sum, entry) => sum + entry.byteLength, 0) },
      weight_map: Object.fromEntries(weightMap),
    }
    const name = `${base}.safetensors.index.json`
    await createFile(join(directory, name), `${JSON.stringify(index, undefined, 2)}\n`)
    written.files.push(name)
  }
  return written
}
