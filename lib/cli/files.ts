import { isUtf8 } from 'node:buffer'
import { constants } from 'node:fs'
import { access, rm } from 'node:fs/promises'
import path from 'node:path'
import { addAbortSignal } from 'node:stream'
import { createFile, ioError, move, renamed } from '../checkpoint/io.js'
import { abortedError, FlrcError } from '../errors.js'
import * as format from '../format/files.js'

/** Largest text that one call takes: beyond it, a string of JavaScript would not hold its tokens either. */
const textLimit = 2 ** 28

/**
 * A prompt's file, `-` for stdin, without the line end that editors put at a file's end. Throws what `readTextFile`
 * does, and E_ABORTED.
 */
export async function readPrompt(file: string, signal: AbortSignal): Promise<string> {
  return (file === '-' ? await readStdin(signal) : await readTextFile(file)).replace(/\r?\n$/, '')
}

async function readStdin(signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of addAbortSignal(signal, process.stdin)) chunks.push(chunk)
  } catch (error) {
    throw signal.aborted ? abortedError() : format.fileError('stdin', error)
  }
  const bytes = Buffer.concat(chunks)
  if (!isUtf8(bytes))
    throw new FlrcError('E_USAGE', 'stdin: not UTF-8 text; convert it, with iconv for instance')
  return bytes.toString('utf8')
}

/** A UTF-8 text file, 256 MiB at most. Throws E_NOT_FOUND, E_IO or E_USAGE. */
export function readTextFile(file: string): Promise<string> {
  return format.readTextFile(file, { limit: textLimit, code: 'E_USAGE' })
}

interface NewFileOptions {
  /** Replace a file that is there. The remedies name --overwrite where this is given, true or false. */
  overwrite?: boolean
}

function existsError(file: string, { overwrite }: NewFileOptions): FlrcError {
  const remedy = overwrite === false ? 'replace it with --overwrite' : 'remove it'
  return new FlrcError('E_EXISTS', `${file}: exists already; give another name, or ${remedy}`, { file })
}

/**
 * Throws where `file` could not be written later: E_EXISTS where it is there, E_NOT_FOUND without its folder, E_IO where
 * that may not be written to.
 */
export async function checkNewFile(file: string, options: NewFileOptions = {}): Promise<void> {
  const folder = path.dirname(path.resolve(file))
  if (!(await format.statIfThere(folder))?.isDirectory()) {
    throw new FlrcError('E_NOT_FOUND', `${folder}: no such folder; make it, or give another path`, { file })
  }
  try {
    await access(folder, constants.W_OK | constants.X_OK)
  } catch (error) {
    throw ioError(error, file)
  }
  const there = await format.statIfThere(file)
  if (there && !(options.overwrite === true && there.isFile())) throw existsError(file, options)
}

/** Writes a new file, whole or not at all. Throws what `checkNewFile` does, and E_IO. */
export async function writeNewFile(file: string, content: string, options: NewFileOptions = {}): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    await createFile(temporary, content)
    await checkNewFile(file, options)
    await move(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true })
    throw renamed(ioError(error, file), temporary, file)
  }
}
