import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { FlrcError } from '../errors.js'

/** The system's name of an error, such as ENOSPC. */
export function systemCode(error: unknown): string | undefined {
  const isSystem = error instanceof Error && 'code' in error && 'syscall' in error
  return isSystem && typeof error.code === 'string' ? error.code : undefined
}

const reasons: Record<string, string> = {
  ENOSPC: 'no space left on the disk; free some, or choose another disk',
  EDQUOT: 'the disk quota is used up; free some space, or choose another disk',
  EFBIG: 'the file is too large for the file system; choose another disk',
  EROFS: 'the file system is read-only; choose another path',
  EACCES: 'permission denied; choose another path, or change its permissions',
  EPERM: 'not permitted; choose another path, or change its permissions',
  ENAMETOOLONG: 'the name is too long; choose a shorter one',
  ENOTDIR: 'a part of the path is no directory; choose another path',
  EMFILE: 'too many open files; raise the limit (ulimit -n)',
}

/** A failed file-system call as E_IO naming the file; other errors as they are. */
export function ioError(error: unknown, file: string): unknown {
  const code = systemCode(error)
  if (code === undefined) return error
  const path = error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : file
  const reason = reasons[code] ?? `cannot be written (${code}); check the disk and the path`
  return new FlrcError('E_IO', `${path}: ${reason}`, { file: path, cause: error })
}

/** The error with a temporary path in it told as what the user will find there. */
export function renamed(error: unknown, temporary: string, target: string): unknown {
  if (!(error instanceof FlrcError) || !error.message.includes(temporary)) return error
  return new FlrcError(error.code, error.message.replaceAll(temporary, target), {
    file: error.file?.replaceAll(temporary, target),
    tensor: error.tensor,
    cause: error.cause ?? error,
  })
}

/**
 * Makes a new file that begins with `content` and is `size` bytes long (of its own length by default).
 *
 * @throws E_IO naming the file
 */
export async function createFile(file: string, content: string | Uint8Array, size?: number): Promise<void> {
  try {
    const handle = await open(file, 'wx')
    try {
      await handle.writeFile(content)
      if (size !== undefined) await handle.truncate(size)
    } finally {
      await handle.close()
    }
  } catch (error) {
    throw ioError(error, file)
  }
}

/** Flushes a file to the disk. */
export async function flushFile(file: string): Promise<void> {
  // Windows flushes only what is open for writing.
  const handle = await open(file, 'r+')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Flushes a directory to the disk: which names are in it. Windows does that by itself. */
export async function flushDirectory(directory: string): Promise<void> {
  if (process.platform === 'win32') return
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } catch (error) {
    // Some file systems know no flushing of directories.
    const code = systemCode(error)
    if (code !== 'EINVAL' && code !== 'ENOTSUP') throw error
  } finally {
    await handle.close()
  }
}

/** How long Windows may go on refusing to move something that a virus scanner has opened. */
const refusedMs = 5000
const refusals: readonly unknown[] = ['EPERM', 'EACCES', 'EBUSY']

/** Renames a file or directory, in one step; a file may be there already, and is replaced. */
export async function move(from: string, to: string): Promise<void> {
  const end = performance.now() + (process.platform === 'win32' ? refusedMs : 0)
  for (let wait = 10; ; wait *= 2) {
    try {
      return await rename(from, to)
    } catch (error) {
      if (!refusals.includes(systemCode(error)) || performance.now() + wait > end) throw error
    }
    await setTimeout(wait)
  }
}

/**
 * Puts new content in a file's place, through one beside it that is flushed and renamed: whatever happens, the old
 * content is there, or the new.
 *
 * @throws E_IO naming the file
 */
export async function replaceFile(file: string, content: string): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    await createFile(temporary, content)
    await flushFile(temporary)
    await move(temporary, file)
    await flushDirectory(dirname(file))
  } catch (error) {
    await rm(temporary, { force: true })
    throw renamed(ioError(error, file), temporary, file)
  }
}
