import { createHash, type Hash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ioError, move } from '../checkpoint/io.js'
import { FlrcError } from '../errors.js'
import { statIfThere } from '../format/files.js'

/** A file as the hub lists it. */
export interface HubFile {
  path: string
  size: number
  /** SHA-256 of a file in large-file storage, else git's hash of it; names the blob in the cache. */
  etag: string
  /** Whether `etag` is a SHA-256. */
  lfs: boolean
}

/** The bytes of a file from `begin` on. */
export type ReadFrom = (begin: number) => Promise<AsyncIterable<Uint8Array>>

export interface BlobTask {
  /** Bytes present so far. */
  onBytes: (bytes: number) => void
  signal: AbortSignal | undefined
}

function hashOf({ lfs, size }: HubFile): Hash {
  return lfs ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
}

/**
 * Writes a file's bytes to `blob`: complete and checked, or not at all. What was interrupted lies in
 * `<blob>.incomplete`, and the next call goes on from there. Callers at the same time write the same bytes to the
 * same places, so that they do not disturb each other.
 *
 * @throws E_HUB where the bytes are not those the hub lists, E_IO, and what `read` throws
 */
export async function fetchBlob(file: HubFile, blob: string, read: ReadFrom, task: BlobTask): Promise<void> {
  const incomplete = `${blob}.incomplete`
  try {
    await mkdir(dirname(blob), { recursive: true })
    const resumed = ((await statIfThere(incomplete))?.size ?? 0) > 0
    const intact = (await fill(file, incomplete, read, task)) || (resumed && (await again()))
    if (!intact) {
      await rm(incomplete, { force: true })
      throw new FlrcError(
        'E_HUB',
        `${file.path}: what was downloaded is not what the hub lists (checksum ${file.etag}); try again later`,
        { file: file.path },
      )
    }
    await move(incomplete, blob).catch(async (error) => {
      if ((await statIfThere(blob)) === undefined) throw error
    })
  } catch (error) {
    throw ioError(error, blob)
  }

  /** What another run has left may be of another file, or spoiled. */
  async function again(): Promise<boolean> {
    await rm(incomplete, { force: true })
    return fill(file, incomplete, read, task)
  }
}

/** Completes the file at `target`. False where the result is not what the hub lists. */
async function fill(file: HubFile, target: string, read: ReadFrom, task: BlobTask): Promise<boolean> {
  const handle = await open(target, constants.O_RDWR | constants.O_CREAT, 0o644)
  try {
    const hash = hashOf(file)
    let at = await hashPresent(handle, hash, task.signal)
    task.onBytes(at)
    if (at < file.size) {
      for await (const chunk of await read(at)) {
        if (at + chunk.length > file.size) return false
        await handle.write(chunk, 0, chunk.length, at)
        hash.update(chunk)
        at += chunk.length
        task.onBytes(at)
      }
      if (at < file.size) throw new Error(`the connection ended after ${at} of ${file.size} bytes`)
    }
    if (at !== file.size || hash.digest('hex') !== file.etag) return false
    await handle.sync()
    return true
  } finally {
    await handle.close()
  }
}

async function hashPresent(handle: FileHandle, hash: Hash, signal: AbortSignal | undefined): Promise<number> {
  let size = 0
  for await (const chunk of handle.createReadStream({ autoClose: false, start: 0, highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted()
    hash.update(chunk as Buffer)
    size += (chunk as Buffer).length
  }
  return size
}
