import { randomUUID } from 'node:crypto'
import type { Completion, GenerationEnd, Piece, TokenLogprob } from '../generate.js'
import type { Started } from './engine.js'

type Fields = Record<string, unknown>

/** How one endpoint writes its answers. */
export interface AnswerForm {
  idPrefix: string
  /** What an answer calls itself, whole and in parts. */
  whole: string
  part: string
  wholeChoice(text: string, logprobs: Fields | null): Fields
  /** Of the first event, where it says something. */
  opening: Fields | undefined
  partChoice(text: string, logprobs: Fields | null): Fields
  closing: Fields
  /** `offset`: characters of the text before the pieces. */
  logprobs(pieces: readonly Piece[], offset: number): Fields
}

export const chatForm: AnswerForm = {
  idPrefix: 'chatcmpl',
  whole: 'chat.completion',
  part: 'chat.completion.chunk',
  wholeChoice: (content, logprobs) => ({ message: { role: 'assistant', content, refusal: null }, logprobs }),
  opening: { delta: { role: 'assistant', content: '' }, logprobs: null },
  partChoice: (content, logprobs) => ({ delta: { content }, logprobs }),
  closing: { delta: {}, logprobs: null },
  logprobs: (pieces) => ({
    content: pieces.map(({ topLogprobs = [], ...chosen }) => ({
      ...said(chosen),
      top_logprobs: topLogprobs.map(said),
    })),
    refusal: null,
  }),
}

export const completionForm: AnswerForm = {
  idPrefix: 'cmpl',
  whole: 'text_completion',
  part: 'text_completion',
  wholeChoice: (text, logprobs) => ({ text, logprobs }),
  opening: undefined,
  partChoice: (text, logprobs) => ({ text, logprobs }),
  closing: { text: '', logprobs: null },
  logprobs(pieces, offset) {
    let position = offset
    const offsets = pieces.map(({ text }) => {
      position += text.length
      return position - text.length
    })
    return {
      tokens: pieces.map(({ text }) => text),
      token_logprobs: pieces.map(({ logprob }) => logprob),
      top_logprobs: pieces.some(({ topLogprobs }) => topLogprobs) ? pieces.map(byText) : null,
      text_offset: offsets,
    }
  },
}

/** The bytes are unknown where a token is but a part of a character. */
function said({ text, logprob }: Pick<TokenLogprob, 'text' | 'logprob'>): Fields {
  return { token: text, logprob, bytes: text.includes('\ufffd') ? null : [...Buffer.from(text)] }
}

/** The likelier one where two have the same text; the chosen token too, where it is none of the likeliest. */
function byText({ tokenId, text, logprob, topLogprobs = [] }: Piece): Fields {
  const isNamed = topLogprobs.some((token) => token.tokenId === tokenId)
  const all = isNamed ? topLogprobs : [...topLogprobs, { text, logprob }]
  return Object.fromEntries(all.toReversed().map((token) => [token.text, token.logprob]))
}

/** What is known of a request from the start, and stands in its answer. */
export interface AnswerHead {
  model: string
  logprobs: boolean
  seed: number
  schedule: string | undefined
  /** How many the model has. */
  levels: number
}

/** Writes one answer, whole or event by event. */
export class AnswerWriter {
  readonly #form: AnswerForm
  readonly #head: AnswerHead
  readonly #started: Started
  readonly #common: Fields
  /** Characters of the text so far. */
  #length = 0

  constructor(form: AnswerForm, head: AnswerHead, started: Started) {
    this.#form = form
    this.#head = head
    this.#started = started
    const id = `${form.idPrefix}-${randomUUID().replaceAll('-', '')}`
    this.#common = { id, created: Math.floor(Date.now() / 1000), model: head.model }
  }

  whole(completion: Completion, pieces: readonly Piece[]): Fields {
    const choice = this.#form.wholeChoice(completion.text, this.#logprobs(pieces))
    return {
      ...this.#document(this.#form.whole, [{ index: 0, ...choice, finish_reason: completion.finishReason }]),
      usage: this.#usage(completion),
      flrc: this.#used(completion),
    }
  }

  opening(): Fields | undefined {
    return this.#form.opening && this.#part(this.#form.opening, null)
  }

  /** Undefined where a piece has nothing to say, as in the midst of a character. */
  part(piece: Piece): Fields | undefined {
    if (piece.text === '' && !this.#head.logprobs) return undefined
    const part = this.#part(this.#form.partChoice(piece.text, this.#logprobs([piece])), null)
    this.#length += piece.text.length
    return part
  }

  closing(completion: Completion): Fields {
    return { ...this.#part(this.#form.closing, completion.finishReason), flrc: this.#used(completion) }
  }

  usage(completion: Completion): Fields {
    return { ...this.#document(this.#form.part, []), usage: this.#usage(completion) }
  }

  #document(object: string, choices: readonly Fields[]): Fields {
    return { ...this.#common, object, choices }
  }

  #part(fields: Fields, finish: GenerationEnd['finishReason'] | null): Fields {
    return this.#document(this.#form.part, [{ index: 0, ...fields, finish_reason: finish }])
  }

  #logprobs(pieces: readonly Piece[]): Fields | null {
    return this.#head.logprobs ? this.#form.logprobs(pieces, this.#length) : null
  }

  #usage({ promptTokens, tokenIds }: Completion): Fields {
    return {
      prompt_tokens: promptTokens,
      completion_tokens: tokenIds.length,
      total_tokens: promptTokens + tokenIds.length,
      prompt_tokens_details: { cached_tokens: this.#started.cachedTokens },
    }
  }

  /** What no other server has: at which levels the answer was written, and how long that took. */
  #used({ levels, meanActiveBudget, tokensPerSecond, timeToFirstTokenMs }: Completion): Fields {
    const { schedule, seed } = this.#head
    const counts = new Array<number>(this.#head.levels).fill(0)
    for (const level of levels) counts[level] = (counts[level] ?? 0) + 1
    return {
      ...{ schedule: schedule ?? null, seed, meanActiveBudget, levels: counts },
      ...{ waitedMs: this.#started.waitedMs, timeToFirstTokenMs, tokensPerSecond },
    }
  }
}
