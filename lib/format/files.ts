import type { Stats } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { type BaseIssue, summarize } from 'valibot'
import { type ErrorCode, FlrcError } from '../errors.js'

function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

/** The FlrcError for a failed file-system call on `file`; E_NOT_FOUND where nothing is there, else E_IO. */
export function fileError(file: string, error: unknown): FlrcError {
  if (error instanceof FlrcError) return error
  const code = systemCode(error)
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new FlrcError('E_NOT_FOUND', `${file}: no such file; check the path`, { file, cause: error })
  }
  const reason = code ?? (error instanceof Error ? error.message : String(error))
  return new FlrcError('E_IO', `${file}: cannot be read (${reason}); check the file and its permissions`, {
    file,
    cause: error,
  })
}

/** What lies at a path, or undefined where nothing does. Throws E_IO where that cannot be known. */
export async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path)
  } catch (error) {
    const code = systemCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw fileError(path, error)
  }
}

/** Size in bytes. Pipes and devices are refused: opening one may never return. */
export async function regularFileSize(file: string): Promise<number> {
  const stats = await statIfThere(file)
  if (!stats) throw new FlrcError('E_NOT_FOUND', `${file}: no such file; check the path`, { file })
  if (!stats.isFile()) {
    throw new FlrcError('E_MODEL_FORMAT', `${file}: not a regular file; give a model file`, { file })
  }
  return stats.size
}

/** Bytes [begin, begin + length). A file that ends sooner is E_MODEL_FORMAT. */
export async function readBytes(file: string, begin: number, length: number): Promise<Buffer> {
  try {
    const handle = await open(file, 'r')
    try {
      const buffer = Buffer.alloc(length)
      let filled = 0
      while (filled < length) {
        const { bytesRead } = await handle.read(buffer, filled, length - filled, begin + filled)
        if (bytesRead === 0) {
          throw new FlrcError(
            'E_MODEL_FORMAT',
            `${file}: ends at byte ${begin + filled}, expected ${begin + length}; download the file again`,
            { file },
          )
        }
        filled += bytesRead
      }
      return buffer
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw fileError(file, error)
  }
}

export interface TextFileOptions {
  /** Largest size accepted, in bytes. */
  limit: number
  /** Code of a file that is too large or ill-formed. */
  code: ErrorCode
}

/** A UTF-8 text file within `limit`. Throws E_NOT_FOUND, E_IO, or `code`. */
export async function readTextFile(file: string, { limit, code }: TextFileOptions): Promise<string> {
  const size = await regularFileSize(file)
  if (size > limit) {
    throw new FlrcError(
      code,
      `${file}: ${size} bytes, more than the ${limit} such a file may have; download the file again`,
      { file },
    )
  }
  return (await readBytes(file, 0, size)).toString('utf8')
}

/** What valibot found wrong, on one line. */
export function issueText(issues: readonly [BaseIssue<unknown>, ...BaseIssue<unknown>[]]): string {
  return summarize([...issues])
    .replaceAll('× ', '')
    .replace(/\n\s*→/g, '')
    .replaceAll('\n', '; ')
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A JSON object from text that came from `file`. */
export function parseJsonObject(text: string, file: string, code: ErrorCode): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new FlrcError(code, `${file}: not valid JSON (${reason}); download the file again`, {
      file,
      cause: error,
    })
  }
  if (!isObject(value)) {
    throw new FlrcError(code, `${file}: holds no JSON object; download the file again`, { file })
  }
  return value
}

/** A file that holds one JSON object. Throws E_NOT_FOUND, E_IO, or `code`. */
export async function readJsonObject(file: string, options: TextFileOptions): Promise<Record<string, unknown>> {
  return parseJsonObject(await readTextFile(file, options), file, options.code)
}
