import type { ChatMessage } from '../chat-template.js'
import { type DialogueSample, summaryPrompt } from '../data/dialogues.js'
import { FlrcError } from '../errors.js'
import { renderForModel } from '../generate/prompt.js'
import type { LoadedModel } from '../model.js'

/** Chats rendered at once, so that no more are than the wanted tokens need. */
const batch = 64

/** Renders chats in the model's template, without the opening of a next turn. E_CHAT_TEMPLATE. */
export function renderWithTemplate(
  model: LoadedModel,
  chats: readonly (readonly ChatMessage[])[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const remedy = 'calibrate on plain text, not on dialogues, which are rendered in it'
  return renderForModel(model, chats, { opening: false, remedy, signal })
}

/**
 * The first `most` tokens of the samples as conversations in the model's chat template, one after another, in an
 * order in which however many come first are spread over all: their messages, or the request to summarise the
 * dialogue and its first summary. E_USAGE for a sample that has neither, E_CHAT_TEMPLATE, E_ABORTED.
 */
export async function dialogueTokens(
  model: LoadedModel,
  samples: readonly DialogueSample[],
  most: number,
  { name = 'dialogues', signal }: { name?: string; signal?: AbortSignal },
): Promise<Int32Array> {
  const inOrder = samples.map((sample, index) => messagesOf(sample, index, name))
  const chats = spreadOrder(inOrder.length).map((index) => inOrder[index] as ChatMessage[])
  const tokens: number[] = []
  for (let first = 0; first < chats.length && tokens.length < most; first += batch) {
    const texts = await renderWithTemplate(model, chats.slice(first, first + batch), signal)
    for (const text of texts) {
      // The template has put the special tokens where they belong.
      for (const token of model.tokenizer.encode(text, { addSpecial: false })) tokens.push(token)
      if (tokens.length >= most) break
    }
  }
  return Int32Array.from(tokens.slice(0, most))
}

/** 0 to count - 1 by their reversed bits (van der Corput's sequence): 0, the middle, the quarters, .. */
function spreadOrder(count: number): number[] {
  const bits = Math.ceil(Math.log2(Math.max(count, 1)))
  const reversed = (value: number) => {
    let result = 0
    for (let bit = 0; bit < bits; bit++) result = 2 * result + ((value >> bit) & 1)
    return result
  }
  return Array.from({ length: 2 ** bits }, (_, value) => reversed(value)).filter((index) => index < count)
}

function messagesOf(sample: DialogueSample, index: number, name: string): ChatMessage[] {
  const { messages, dialogue, summaries } = sample
  if (messages !== undefined) return messages
  const summary = summaries?.[0]
  if (dialogue === undefined || summary === undefined) {
    const which = sample.id === undefined ? `sample ${index + 1}` : `sample ${index + 1} (${sample.id})`
    throw new FlrcError(
      'E_USAGE',
      `${name}: ${which} has no ${dialogue === undefined ? 'dialogue' : 'summary'}; give each a dialogue and its summary, or messages`,
      { file: name },
    )
  }
  return [
    { role: 'user', content: summaryPrompt(dialogue) },
    { role: 'assistant', content: summary },
  ]
}
