import * as v from 'valibot'
import { lineError, parseJsonLines } from './jsonl.js'

/** A text and what may follow it. */
export interface ChoiceSample {
  id?: string
  context: string
  /** Continuations, each put behind the context as it is: a blank between them is the choice's own. */
  choices: string[]
  /** Index of the right choice. */
  answer: number
}

const schema = v.object({
  id: v.optional(v.union([v.string(), v.pipe(v.number(), v.transform(String))])),
  context: v.string(),
  choices: v.pipe(v.array(v.pipe(v.string(), v.nonEmpty())), v.minLength(2)),
  answer: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
})

const remedy =
  'give each line {"context": "...", "choices": ["...", "..."], "answer": 0}, the answer an index from 0'

/** The samples of a JSON Lines text. Errors: E_USAGE with the file, the line and what a line must hold. */
export function parseChoices(content: string, file: string): ChoiceSample[] {
  return parseJsonLines(content, file, schema, remedy).map(({ line, value }) => {
    const { id, context, choices, answer } = value
    if (answer >= choices.length) {
      throw lineError(file, line, `has the answer ${answer} of ${choices.length} choices`, remedy)
    }
    return { ...(id === undefined ? {} : { id }), context, choices, answer }
  })
}
