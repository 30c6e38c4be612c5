import * as v from 'valibot'
import { lineError, parseJsonLines } from './jsonl.js'

/** One line of a dialogue file: a dialogue with its summaries, or a chat. */
export interface DialogueSample {
  id?: string
  dialogue?: string
  /** What people wrote of the dialogue; a score is the mean over them. */
  summaries?: string[]
  messages?: { role: string; content: string }[]
}

const text = v.pipe(v.string(), v.nonEmpty())
const identifier = v.optional(v.union([v.string(), v.pipe(v.number(), v.transform(String))]))

const schema = v.object({
  id: identifier,
  fname: identifier,
  dialogue: v.optional(text),
  summary: v.optional(text),
  summary1: v.optional(text),
  summary2: v.optional(text),
  summary3: v.optional(text),
  messages: v.optional(v.pipe(v.array(v.object({ role: text, content: v.string() })), v.nonEmpty())),
})

const remedy =
  'give each line a dialogue and its summary (or summary1 to summary3), such as {"dialogue": "...", "summary": "..."}, or messages'

/**
 * The samples of a JSON Lines text: `dialogue` with `summary` or `summary1` to `summary3`, or chat `messages`;
 * `id` or `fname` names a sample. Errors: E_USAGE with the file, the line and what a line must hold.
 */
export function parseDialogues(content: string, file: string): DialogueSample[] {
  return parseJsonLines(content, file, schema, remedy).map(({ line, value }) => {
    const { dialogue, messages, summary, summary1, summary2, summary3 } = value
    if (dialogue === undefined && messages === undefined) {
      throw lineError(file, line, 'has neither dialogue nor messages', remedy)
    }
    const id = value.id ?? value.fname
    const summaries = [summary, summary1, summary2, summary3].filter((one) => one !== undefined)
    return {
      ...(id === undefined ? {} : { id }),
      ...(dialogue === undefined ? {} : { dialogue }),
      ...(summaries.length === 0 ? {} : { summaries }),
      ...(messages === undefined ? {} : { messages }),
    }
  })
}

/** What a model is asked, the same in calibration and in measuring. */
export function summaryPrompt(dialogue: string): string {
  return `Summarize the following dialogue in one or two sentences.\n\n${dialogue}`
}
