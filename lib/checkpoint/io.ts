import { open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
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

/** Flushes a file or directory to the disk. */
export async function flush(path: string): Promise<void> {
  const handle = await open(path, 'r')
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
    await flush(temporary)
    await rename(temporary, file)
    await flush(dirname(file))
  } catch (error) {
    await rm(temporary, { force: true })
    throw renamed(ioError(error, file), temporary, file)
  }
}
