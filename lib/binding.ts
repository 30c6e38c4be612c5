import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'
import { checkSignal } from './check.js'
import { abortedError, type ErrorCode, errorCodes, FlrcError } from './errors.js'
import { explainMissing, explainUnloadable, thisHost } from './missing-addon.js'
import type { NativeBinding, NativeProgress, NativeTask } from './native-types.js'

/** The package's own folder: where the addon is built and where `models/tiny` lies. */
export const packageRoot = fileURLToPath(new URL('..', import.meta.url))

const packageJson = JSON.parse(readFileSync(path.join(packageRoot, 'package.json'), 'utf8')) as {
  version: string
  description: string
}

export const { version: packageVersion, description: packageDescription } = packageJson

interface NodeGypBuild {
  (folder: string): NativeBinding
  resolve(folder: string): string
}

const require = createRequire(import.meta.url)
let loaded: NativeBinding | undefined

/** The addon, loaded at first use. E_BINDING where it is missing or does not load. */
export function binding(): NativeBinding {
  loaded ??= loadBinding()
  return loaded
}

function loadBinding(): NativeBinding {
  const nodeGypBuild = require('node-gyp-build') as NodeGypBuild
  let file: string
  try {
    // What FLRC_PREBUILD says is relative to the working directory, and `require` is not.
    file = path.resolve(nodeGypBuild.resolve(packageRoot))
  } catch (cause) {
    throw new FlrcError('E_BINDING', explainMissing(packageRoot, thisHost(), process.env.FLRC_PREBUILD), {
      cause,
    })
  }
  let addon: NativeBinding
  try {
    addon = require(file) as NativeBinding
  } catch (cause) {
    const message = explainUnloadable(packageRoot, thisHost(), messageOf(cause))
    throw new FlrcError('E_BINDING', message, { file, cause })
  }
  // Before the exit handlers of what work under way may be using, CUDA among it. A worker thread ends its own work.
  if (isMainThread) process.once('exit', () => addon.endWork())
  return addon
}

/** A native failure as an FlrcError; anything that carries no code of ours is E_INTERNAL. */
export function toFlrcError(error: unknown): FlrcError {
  if (error instanceof FlrcError) return error
  const { code, file, tensor } = (typeof error === 'object' && error !== null ? error : {}) as {
    code?: unknown
    file?: unknown
    tensor?: unknown
  }
  const known = errorCodes.find((candidate): candidate is ErrorCode => candidate === code)
  return new FlrcError(known ?? 'E_INTERNAL', messageOf(error), {
    file: typeof file === 'string' && file !== '' ? file : undefined,
    tensor: typeof tensor === 'string' && tensor !== '' ? tensor : undefined,
    cause: error,
  })
}

/** What a file was made by. */
export function packageVersions(): { flrc: string; node: string; blas: string } {
  const { blas } = callNative((addon) => addon.info())
  return { flrc: packageVersion, node: process.versions.node, blas }
}

/** Calls into the addon, turning what it throws into an FlrcError. */
export function callNative<T>(call: (native: NativeBinding) => T): T {
  const native = binding()
  try {
    return call(native)
  } catch (error) {
    throw toFlrcError(error)
  }
}

/** Hears how far work is. */
export type ProgressListener = (progress: { stage: string; done: number; total: number }) => void

/**
 * Starts native work and waits for it. When one of the signals fires, the work is cancelled and the promise
 * rejects with E_ABORTED at once, without waiting for the native side; a result that still arrives is given
 * to `releaseLate`, and a late failure is dropped. What `onProgress` throws ends the work as well: the promise rejects
 * with it, where an error in a native callback would end the process.
 */
export function runTask<T>(
  start: (native: NativeBinding, onProgress: NativeProgress | undefined) => NativeTask<T>,
  signals: readonly (AbortSignal | undefined)[],
  releaseLate?: (result: T) => void,
  onProgress?: ProgressListener,
): Promise<T> {
  signals.forEach(checkSignal)
  if (signals.some((signal) => signal?.aborted)) return Promise.reject(abortedError())
  let task: NativeTask<T>
  let aborted = false
  let stop: (reason: unknown) => void = () => {}
  const sink: NativeProgress | undefined =
    onProgress &&
    ((stage, done, total) => {
      if (aborted) return
      try {
        onProgress({ stage, done, total })
      } catch (error) {
        stop(error)
      }
    })
  try {
    task = callNative((native) => start(native, sink))
  } catch (error) {
    return Promise.reject(error)
  }
  return new Promise<T>((resolve, reject) => {
    stop = (reason) => {
      if (aborted) return
      aborted = true
      forget()
      task.cancel()
      reject(reason)
    }
    const onAbort = () => stop(abortedError())
    // Listeners rather than AbortSignal.any: a decode step is short, and composed signals live on.
    const forget = () => {
      for (const signal of signals) signal?.removeEventListener('abort', onAbort)
    }
    for (const signal of signals) signal?.addEventListener('abort', onAbort)
    task.promise.then(
      (result) => {
        if (aborted) {
          releaseLate?.(result)
          return
        }
        forget()
        resolve(result)
      },
      (error) => {
        if (aborted) return
        forget()
        reject(toFlrcError(error))
      },
    )
  })
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
