import { checkObject, checkText } from '../check.js'
import { FlrcError } from '../errors.js'
import { decode, type GenerateOptions, type Generation, LeavableGeneration } from '../generate.js'
import type { LoadedModel } from '../model.js'
import type { Session } from '../session.js'
import { checkContext, checkOptions } from './options.js'
import { chatTokens, sharedLength } from './prompt.js'

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant'
  content: string
}

export interface ChatOptions {
  /** Messages before the first turn, such as a system prompt. */
  messages?: readonly ChatMessage[]
}

/**
 * A conversation in the model's chat template. The cache is kept between turns: what the template leaves
 * unchanged is not computed again, and the model's own words stay in it as they were decoded, at the level of
 * their step. Each turn's schedule starts at step 0.
 */
export class Chat {
  readonly #model: LoadedModel
  readonly #messages: ChatMessage[]
  #session: Session | undefined
  /** The tokens that the session's cache holds. */
  #cached: number[] = []
  #busy = false
  #disposed = false

  constructor(model: LoadedModel, options: ChatOptions = {}) {
    checkObject('the argument of chat', options, 'options, such as { messages: [] }')
    this.#model = model
    this.#messages = [...(options.messages ?? [])]
  }

  /** The conversation so far. */
  get messages(): readonly ChatMessage[] {
    return this.#messages
  }

  /**
   * Says `content` and generates the answer, which joins the messages when the iterator ends or is left.
   * Errors: those of generate, E_CHAT_TEMPLATE where the model has no usable template, E_USAGE while another
   * turn is under way.
   */
  send(content: string, options: GenerateOptions = {}): Generation {
    checkObject('the second argument', options, 'options, such as { maxTokens: 64 }')
    return new LeavableGeneration(options.signal, this.#turn.bind(this, content, options))
  }

  /** Frees the cache. */
  dispose(): void {
    this.#disposed = true
    this.#session?.release()
    this.#session = undefined
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async *#turn(content: string, options: GenerateOptions, signal: AbortSignal): ReturnType<typeof decode> {
    this.#assertUsable()
    this.#model.assertUsable()
    checkText('the message', content, 'what the user says')
    if (this.#busy) throw new FlrcError('E_USAGE', 'a turn of this chat is under way; wait until it ends')
    const checked = checkOptions(options, this.#model)
    const messages: ChatMessage[] = [...this.#messages, { role: 'user', content }]
    this.#busy = true
    let answer = ''
    let heard = false
    try {
      const tokens = await chatTokens(
        this.#model,
        messages.map((message) => ({ ...message })),
        { remedy: 'generate from a prompt of your own instead', signal },
      )
      this.#assertUsable()
      checkContext(this.#model, tokens.length, checked.maxTokens)
      const reused = this.#reuse(tokens)
      const pieces = decode(this.#model, this.#openSession(), tokens, { ...checked, reused }, signal, (token) =>
        this.#cached.push(token),
      )
      for (;;) {
        const next = await pieces.next()
        heard = true
        if (next.done) return next.value
        answer += next.value.text
        yield next.value
      }
    } finally {
      this.#busy = false
      if (heard) this.#messages.push({ role: 'user', content }, { role: 'assistant', content: answer })
      // A pass that was cut off may still be writing to the cache.
      if (signal.aborted) this.#forget()
    }
  }

  #assertUsable(): void {
    if (this.#disposed) throw new FlrcError('E_DISPOSED', 'the chat was disposed; start a new one')
  }

  /** Rewinds the cache to what it shares with the new prompt; the last token is computed anew for its logits. */
  #reuse(tokens: readonly number[]): number {
    if (this.#session === undefined) return 0
    const shared = Math.min(sharedLength(tokens, this.#cached), tokens.length - 1)
    this.#session.rewind(shared)
    this.#cached.length = shared
    return shared
  }

  #openSession(): Session {
    this.#session ??= this.#model.createSession()
    return this.#session
  }

  #forget(): void {
    this.#session?.release()
    this.#session = undefined
    this.#cached = []
  }
}
