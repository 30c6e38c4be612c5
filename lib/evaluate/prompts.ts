import type { ChatMessage } from '../chat-template.js'
import { counted } from '../counted.js'
import { type DialogueSample, summaryPrompt } from '../data/dialogues.js'
import { FlrcError } from '../errors.js'
import { checkContext } from '../generate/options.js'
import { renderForModel } from '../generate/prompt.js'
import type { LoadedModel } from '../model.js'
import { firstTokens } from '../text.js'
import { firstSamples, ofSample, sampleName } from './samples.js'

/** A sample as the model is asked. */
export interface Prompt {
  id: string
  tokens: number[]
}

/** Tokens of a window of plain text. */
const windowLength = 128

/**
 * Chats as prompts, in the model's template up to the opening of its answer. Errors: E_CHAT_TEMPLATE; E_CONTEXT,
 * with the sample's name, where one and `maxTokens` more exceed the context; E_ABORTED.
 */
export async function chatPrompts(
  model: LoadedModel,
  chats: readonly { id: string; messages: readonly ChatMessage[] }[],
  { maxTokens, signal }: { maxTokens: number; signal: AbortSignal | undefined },
): Promise<Prompt[]> {
  const remedy = 'use a model that has one'
  const messages = chats.map((chat) => chat.messages)
  const texts = await renderForModel(model, messages, { opening: true, remedy, signal })
  return chats.map(({ id }, index) => {
    const tokens = Array.from(model.tokenizer.encode(texts[index] ?? '', { addSpecial: false }))
    return checkPrompt(model, { id, tokens }, maxTokens)
  })
}

/** What the model is asked of a dialogue: its summary. */
export function summaryRequest(dialogue: string): ChatMessage[] {
  return [{ role: 'user', content: summaryPrompt(dialogue) }]
}

/**
 * The first samples as prompts: a dialogue asks for its summary, a chat for the answer to all but its closing
 * answers. Errors: those of `chatPrompts`, and E_USAGE for a sample that asks nothing.
 */
export function dialoguePrompts(
  model: LoadedModel,
  samples: readonly DialogueSample[],
  { limit, ...options }: { limit: number | undefined; maxTokens: number; signal: AbortSignal | undefined },
): Promise<Prompt[]> {
  const chats = firstSamples(samples, limit).map((sample, index) => {
    const id = sampleName(sample, index)
    const { dialogue, messages = [] } = sample
    const asked = messages.slice(0, messages.findLastIndex(({ role }) => role !== 'assistant') + 1)
    if (dialogue === undefined && asked.length === 0) {
      throw new FlrcError('E_USAGE', `sample ${id} asks nothing; give it a dialogue, or messages of a user`)
    }
    return { id, messages: dialogue === undefined ? asked : summaryRequest(dialogue) }
  })
  return chatPrompts(model, chats, options)
}

/**
 * Windows of 128 tokens of a text, one after another and the tail dropped, each behind the begin token where the
 * tokenizer adds one. Errors: E_USAGE where the text gives no window, E_CONTEXT.
 */
export function textPrompts(
  model: LoadedModel,
  text: string,
  { limit, maxTokens, name = 'the text' }: { limit: number | undefined; maxTokens: number; name?: string },
): Prompt[] {
  const { addsBos } = model.tokenizer
  const wanted = (limit ?? Number.POSITIVE_INFINITY) * windowLength + Number(addsBos)
  const tokens = firstTokens(model.tokenizer, text, wanted)
  const begin = tokens.slice(0, Number(addsBos))
  const count = Math.floor((tokens.length - begin.length) / windowLength)
  if (count === 0) {
    throw new FlrcError(
      'E_USAGE',
      `${name} has ${counted(tokens.length, 'token')} and a window takes ${windowLength}; give a longer text`,
    )
  }
  return Array.from({ length: count }, (_, index) => {
    const from = begin.length + index * windowLength
    const prompt = { id: String(index + 1), tokens: [...begin, ...tokens.slice(from, from + windowLength)] }
    return checkPrompt(model, prompt, maxTokens)
  })
}

/** The prompt itself. E_CONTEXT, with the sample's name, where it and `maxTokens` more exceed the context. */
export function checkPrompt(model: LoadedModel, prompt: Prompt, maxTokens: number): Prompt {
  try {
    checkContext(model, prompt.tokens.length, maxTokens)
    return prompt
  } catch (error) {
    throw ofSample(prompt.id, error)
  }
}

/** Tokens of the longest prompt. */
export function longestOf(prompts: readonly Prompt[]): number {
  return prompts.reduce((most, { tokens }) => Math.max(most, tokens.length), 0)
}
