import * as format from '../format/files.js'

/** Largest text that one call takes: beyond it, a string of JavaScript would not hold its tokens either. */
const textLimit = 2 ** 28

/** A UTF-8 text file, 256 MiB at most. Throws E_NOT_FOUND, E_IO or E_USAGE. */
export function readTextFile(file: string): Promise<string> {
  return format.readTextFile(file, { limit: textLimit, code: 'E_USAGE' })
}
