import { isUtf8 } from 'node:buffer'
import type { Stats } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { type BaseIssue, getDotPath } from 'valibot'
import { abortedError, type ErrorCode, FlrcError } from '../errors.js'

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

/** Size in bytes. Pipes and devices are refused, with `code`: opening one may never return. */
export async function regularFileSize(file: string, code: ErrorCode = 'E_MODEL_FORMAT'): Promise<number> {
  const stats = await statIfThere(file)
  if (!stats) throw new FlrcError('E_NOT_FOUND', `${file}: no such file; check the path`, { file })
  if (!stats.isFile()) {
    const what = stats.isDirectory() ? 'a directory, not a regular file' : 'not a regular file'
    throw new FlrcError(code, `${file}: ${what}; give a file`, { file })
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

/** Bytes [offset, offset + byteLength) of a file. */
export interface ByteRange {
  file: string
  offset: number
  byteLength: number
}

/** Read at a time: little memory, and few calls for gigabytes. */
const comparedBytes = 1 << 22

/** Whether two ranges hold the same bytes; what lies behind a difference is not read. Throws what `readBytes` does, E_ABORTED. */
export async function sameBytes(a: ByteRange, b: ByteRange, signal?: AbortSignal): Promise<boolean> {
  if (a.byteLength !== b.byteLength) return false
  for (let begin = 0; begin < a.byteLength; begin += comparedBytes) {
    if (signal?.aborted) throw abortedError()
    const length = Math.min(comparedBytes, a.byteLength - begin)
    const [one, other] = await Promise.all([
      readBytes(a.file, a.offset + begin, length),
      readBytes(b.file, b.offset + begin, length),
    ])
    if (!one.equals(other)) return false
  }
  return true
}

export interface TextFileOptions {
  /** Largest size accepted, in bytes. */
  limit: number
  /** Code of a file that is too large or ill-formed. */
  code: ErrorCode
  /** What to do where it holds no JSON object: to download it again, if nothing else is said. */
  remedy?: string
}

/** A UTF-8 text file within `limit`. Throws E_NOT_FOUND, E_IO, or `code`. */
export async function readTextFile(file: string, { limit, code }: TextFileOptions): Promise<string> {
  const size = await regularFileSize(file, code)
  if (size > limit) {
    throw new FlrcError(
      code,
      `${file}: ${size} bytes, more than the ${limit} such a file may have; give a smaller one`,
      { file },
    )
  }
  const bytes = await readBytes(file, 0, size)
  if (!isUtf8(bytes)) {
    throw new FlrcError(code, `${file}: not UTF-8 text; convert it, with iconv for instance`, { file })
  }
  // What some editors put before a text to say that it is UTF-8 is none of it.
  return bytes.toString('utf8').replace(/^\ufeff/, '')
}

/** What valibot found wrong, on one line. */
export function issueText(issues: readonly [BaseIssue<unknown>, ...BaseIssue<unknown>[]]): string {
  return issues
    .map((issue) => {
      const path = getDotPath(issue)
      if (path !== null && issue.received === 'undefined') return `${path} is missing`
      const what = issue.message.replace(/^Invalid (\w+): E/, 'invalid $1, e').replace('!0', 'more than 0')
      return path === null ? what : `${path}: ${what}`
    })
    .join('; ')
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A JSON object from text that came from `file`. */
export function parseJsonObject(
  text: string,
  file: string,
  code: ErrorCode,
  remedy = 'download the file again',
): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new FlrcError(code, `${file}: not valid JSON (${reason}); ${remedy}`, {
      file,
      cause: error,
    })
  }
  if (!isObject(value)) {
    throw new FlrcError(code, `${file}: holds no JSON object; ${remedy}`, { file })
  }
  return value
}

/** A file that holds one JSON object. Throws E_NOT_FOUND, E_IO, or `code`. */
export async function readJsonObject(file: string, options: TextFileOptions): Promise<Record<string, unknown>> {
  return parseJsonObject(await readTextFile(file, options), file, options.code, options.remedy)
}
