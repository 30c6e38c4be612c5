import * as v from 'valibot'
import { lineError, parseJsonLines } from './jsonl.js'

/** What a model wrote of a sample. */
export interface OutputLine {
  id: string
  text: string
}

const schema = v.object({ id: v.string(), text: v.string() })

const remedy = 'give a file that flrc eval summarize --outputs wrote, each line an id and a text'

/** The texts of an outputs file. Errors: E_USAGE with the file and the line, also where an id comes twice. */
export function parseOutputs(content: string, file: string): OutputLine[] {
  const seen = new Set<string>()
  return parseJsonLines(content, file, schema, remedy).map(({ line, value }) => {
    if (seen.has(value.id)) throw lineError(file, line, `has the id ${value.id} for a second time`, remedy)
    seen.add(value.id)
    return value
  })
}
