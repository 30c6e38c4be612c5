import { randomUUID } from 'node:crypto'
import { copyFile, link, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { getRepoFolderName } from '@huggingface/hub'
import { ioError, move, systemCode } from '../checkpoint/io.js'
import { statIfThere } from '../format/files.js'
import { ggufParts } from '../format/gguf-split.js'
import { shardNames } from '../format/safetensors.js'
import { commitPattern, type HubReference } from './reference.js'

/**
 * One repository in the cache, laid out as the Python library does:
 * `blobs/<etag>`, `snapshots/<commit>/<path>` (links to blobs) and `refs/<branch or tag>` (its commit).
 */
export class RepositoryCache {
  readonly #folder: string

  constructor(cache: string, repo: string) {
    this.#folder = join(cache, getRepoFolderName({ type: 'model', name: repo }))
  }

  snapshot(commit: string): string {
    return join(this.#folder, 'snapshots', commit)
  }

  blob(etag: string): string {
    return join(this.#folder, 'blobs', etag)
  }

  /** Commit of a branch or tag when it was last asked for. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (commitPattern.test(revision)) return revision
    const commit = await readFile(join(this.#folder, 'refs', revision), 'utf8').catch(() => '')
    return commitPattern.test(commit.trim()) ? commit.trim() : undefined
  }

  /** Remembers what a branch or tag pointed to. */
  async writeRef(revision: string, commit: string): Promise<void> {
    if (revision === commit) return
    const file = join(this.#folder, 'refs', revision)
    const temporary = `${file}.${randomUUID()}.tmp`
    try {
      await mkdir(dirname(file), { recursive: true })
      await writeFile(temporary, commit)
      await move(temporary, file)
    } catch (error) {
      throw ioError(error, file)
    }
  }

  /** Shows a blob under its path in the snapshot of a commit. */
  async link(commit: string, path: string, etag: string): Promise<void> {
    const [blob, file] = [this.blob(etag), join(this.snapshot(commit), path)]
    try {
      await mkdir(dirname(file), { recursive: true })
      await symlink(relative(dirname(file), blob), file)
    } catch (error) {
      // Another process was as quick.
      if (systemCode(error) === 'EEXIST') return
      // Windows lets only administrators make symbolic links. Hard ones take no space, but not every disk has them.
      if (systemCode(error) !== 'EPERM') throw ioError(error, file)
      await link(blob, file).catch(() => copyFile(blob, file))
    }
  }

  /** The path to open if all that a reference needs is here, with its commit. */
  async complete(reference: HubReference): Promise<{ path: string; commit: string } | undefined> {
    const commit = await this.commitOf(reference.revision)
    if (commit === undefined) return undefined
    const folder = this.snapshot(commit)
    const has = async (file: string) => (await statIfThere(join(folder, file))) !== undefined
    if (reference.file !== undefined) {
      for (const part of ggufParts(reference.file) ?? [reference.file]) if (!(await has(part))) return undefined
      return { path: join(folder, reference.file), commit }
    }
    if (!(await has('config.json')) || !(await has('tokenizer.json'))) return undefined
    const found = { path: folder, commit }
    if (await has('model.safetensors')) return found
    if (!(await has('model.safetensors.index.json'))) return undefined
    for (const shard of await shardNames(folder)) if (!(await has(shard))) return undefined
    return found
  }
}
