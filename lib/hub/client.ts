import { setTimeout as sleep } from 'node:timers/promises'
import { downloadFile, fileDownloadInfo, HubApiError, listFiles, modelInfo } from '@huggingface/hub'
import { abortedError, FlrcError } from '../errors.js'
import type { HubFile, ReadFrom } from './blob.js'
import { type HubReference, referenceText } from './reference.js'
import type { HubSettings } from './settings.js'

const attempts = 5
/** Milliseconds before the second attempt; twice as long before each further one. */
const firstPause = 100

/** What the hub says of one reference, through its client library. */
export class HubClient {
  readonly #reference: HubReference
  readonly #settings: HubSettings
  readonly #signal: AbortSignal | undefined
  readonly #shared: { hubUrl: string; accessToken: string | undefined; fetch: typeof fetch }

  constructor(reference: HubReference, settings: HubSettings, signal: AbortSignal | undefined) {
    this.#reference = reference
    this.#settings = settings
    this.#signal = signal
    this.#shared = {
      hubUrl: settings.endpoint,
      accessToken: settings.token,
      fetch: (input, init) => fetch(input, signal ? { ...init, signal } : init),
    }
  }

  /** Commit that the revision points to. */
  commit(): Promise<string> {
    const { repo, revision } = this.#reference
    return this.retry(async () => {
      const { sha } = await modelInfo({ ...this.#shared, name: repo, revision, additionalFields: ['sha'] })
      if (/^[0-9a-f]{40}$/.test(sha)) return sha
      throw this.error(`answers with ${JSON.stringify(sha)} where a commit should be`, 'check HF_ENDPOINT')
    })
  }

  /** Files of one folder, by path. Those whose names could lead elsewhere are left out. */
  files(commit: string, folder: string): Promise<Map<string, HubFile>> {
    const { repo } = this.#reference
    const prefix = folder === '' ? '' : `${folder}/`
    return this.retry(async () => {
      const files = new Map<string, HubFile>()
      const listing = listFiles({ ...this.#shared, repo, revision: commit, path: folder })
      for await (const { type, path, size, oid, lfs } of listing) {
        const etag = lfs?.oid ?? oid ?? ''
        const name = path.startsWith(prefix) ? path.slice(prefix.length) : ''
        if (type !== 'file' || !/^(?!\.)[\w.-]+$/.test(name) || !/^[0-9a-f]{40,64}$/.test(etag)) continue
        files.set(path, { path, size: lfs?.size ?? size, etag, lfs: lfs !== undefined })
      }
      return files
    })
  }

  /** The bytes of a file from any place on, over plain HTTP ranges. */
  reader(commit: string, path: string): ReadFrom {
    const file = { ...this.#shared, repo: this.#reference.repo, revision: commit, path }
    return async (begin) => {
      const downloadInfo = await fileDownloadInfo(file)
      const blob = downloadInfo && (await downloadFile({ ...file, downloadInfo, xet: false }))
      if (!blob) throw this.error(`lists ${path} but does not have it`, 'try again later')
      return blob.slice(begin).stream() as unknown as AsyncIterable<Uint8Array>
    }
  }

  /** Tries again what failed for want of a connection or of a working server. */
  async retry<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        if (this.#signal?.aborted) throw abortedError()
        if (attempt === attempts || !isPassing(error)) throw this.explain(error)
        await sleep(firstPause * 2 ** (attempt - 1), undefined, { signal: this.#signal }).catch(() => undefined)
        if (this.#signal?.aborted) throw abortedError()
      }
    }
  }

  error(problem: string, remedy: string, cause?: unknown): FlrcError {
    return this.#error('E_HUB', problem, remedy, cause)
  }

  #error(code: 'E_HUB' | 'E_NOT_FOUND', problem: string, remedy: string, cause?: unknown): FlrcError {
    const text = referenceText(this.#reference)
    const message = `${text}: no such file or directory here, and the hub at ${this.#settings.endpoint} ${problem}; ${remedy}`
    return new FlrcError(code, message, { file: text, cause })
  }

  private explain(error: unknown): FlrcError {
    if (error instanceof FlrcError) return error
    const { endpoint, token } = this.#settings
    if (!(error instanceof HubApiError)) {
      return this.error(
        `cannot be reached (${reasonOf(error)})`,
        'check the connection, or give a model on disk; what has been downloaded is kept',
        error,
      )
    }
    const { statusCode } = error
    if (statusCode === 404) {
      const remedy = 'check the name, the revision and the file'
      return this.#error('E_NOT_FOUND', 'has no such model', remedy, error)
    }
    if (statusCode === 401 || statusCode === 403) {
      return this.error(
        `refuses access (${statusCode}): there is no such model, or it is private or gated`,
        token === undefined
          ? 'check the name, or set HF_TOKEN to a token that may read it'
          : `check the name, and accept its terms at ${endpoint}/${this.#reference.repo} with the account of the token`,
        error,
      )
    }
    return this.error(`answers with status ${statusCode}`, 'try again later', error)
  }
}

/** Whether the hub gave no answer, as opposed to a refusal. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof FlrcError && error.cause !== undefined && isPassing(error.cause)
}

/** Whether another attempt may help. */
function isPassing(error: unknown): boolean {
  if (error instanceof FlrcError) return false
  return !(error instanceof HubApiError) || error.statusCode === 429 || error.statusCode >= 500
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { cause } = error
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : undefined
  return code ?? error.message
}
