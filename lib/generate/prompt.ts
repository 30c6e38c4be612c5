import { type ChatMessage, renderChats } from '../chat-template.js'
import { FlrcError } from '../errors.js'
import type { LoadedModel } from '../model.js'

/** Chats rendered at once: a thread is started for each batch, and its limits hold for the whole of it. */
const batch = 64

export interface RenderForOptions {
  /** Whether the opening of the model's turn follows. */
  opening: boolean
  /** What to do about a model without a template, as the end of the error's message. */
  remedy: string
  signal: AbortSignal | undefined
}

/** The model's chat template. E_CHAT_TEMPLATE, ending in `remedy`, where it has none. */
export function templateOf({ source }: LoadedModel, remedy: string): string {
  const template = source.tokenizer().chatTemplate
  if (template !== undefined) return template
  throw new FlrcError('E_CHAT_TEMPLATE', `${source.path}: the model has no chat template; ${remedy}`, {
    file: source.path,
  })
}

/**
 * Renders chats in the model's own template, whose special tokens are where they belong: encode the texts without
 * adding any. E_CHAT_TEMPLATE, E_ABORTED.
 */
export async function renderForModel(
  model: LoadedModel,
  chats: readonly (readonly ChatMessage[])[],
  { opening, remedy, signal }: RenderForOptions,
): Promise<string[]> {
  const { source, tokenizer } = model
  const template = templateOf(model, remedy)
  const { bosToken, eosToken } = tokenizer
  const texts: string[] = []
  for (let first = 0; first < chats.length; first += batch) {
    const rendered = await renderChats(template, chats.slice(first, first + batch), {
      ...{ addGenerationPrompt: opening, bosToken, eosToken, signal, file: source.path },
    })
    texts.push(...rendered)
  }
  return texts
}

/**
 * The token ids of one chat in the model's own template, with its turn opened. E_CHAT_TEMPLATE, E_ABORTED, E_CONTEXT where
 * they are more than the context has.
 */
export async function chatTokens(
  model: LoadedModel,
  messages: readonly ChatMessage[],
  { remedy, signal }: Omit<RenderForOptions, 'opening'>,
): Promise<number[]> {
  const [text = ''] = await renderForModel(model, [messages], { opening: true, remedy, signal })
  const { contextLength: context } = model.config
  return Array.from(model.tokenizer.encode(text, { addSpecial: false, context }))
}

/** Tokens at the beginning of both. */
export function sharedLength(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length)
  let shared = 0
  while (shared < most && a[shared] === b[shared]) shared++
  return shared
}
