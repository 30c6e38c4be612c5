import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText } from '../format/files.js'

/** What is wrong with a line of a data file, as the E_USAGE it is. */
export function lineError(file: string, line: number, problem: string, remedy: string): FlrcError {
  return new FlrcError('E_USAGE', `${file}, line ${line}: ${problem}; ${remedy}`, { file })
}

export interface JsonLine<T> {
  /** Counted from 1. */
  line: number
  value: T
}

/**
 * The lines of a JSON Lines text, blank ones left out. Errors: E_USAGE with the file, the line's number and
 * `remedy` (what a line must look like) for a line that is no JSON or does not fit the schema, and for a
 * text without lines.
 */
export function parseJsonLines<Schema extends v.GenericSchema>(
  text: string,
  file: string,
  schema: Schema,
  remedy: string,
): JsonLine<v.InferOutput<Schema>>[] {
  const values = text
    .replace(/^\ufeff/, '')
    .split('\n')
    .map((content, index) => ({ content, line: index + 1 }))
    .filter(({ content }) => content.trim() !== '')
    .map(({ content, line }) => {
      const result = v.safeParse(schema, parsed(content, file, line, remedy))
      if (!result.success) throw lineError(file, line, issueText(result.issues), remedy)
      return { line, value: result.output }
    })
  if (values.length === 0) throw new FlrcError('E_USAGE', `${file}: holds no lines; ${remedy}`, { file })
  return values
}

function parsed(content: string, file: string, line: number, remedy: string): unknown {
  try {
    return JSON.parse(content)
  } catch (error) {
    throw lineError(file, line, `not valid JSON (${error instanceof Error ? error.message : error})`, remedy)
  }
}
