import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import { FlrcError } from './errors.js'
import { tokenText } from './format/added-tokens.js'
import { portableTokenizer, vocabularySize } from './format/tokenizer-json.js'
import type { TokenizerSource } from './format/types.js'
import { TimeLimitError, withTimeLimit } from './time-limit.js'
import { TokenCache } from './token-cache.js'
import { TokenLimit } from './token-limit.js'
import { wholeWords } from './whole-words.js'

/*
 * Tokenizers come from strangers, and hold regular expressions. Bounded: the time of building one, of encoding
 * (in proportion to the text) and of decoding; the size of tokenizer.json (where it is read). Not bounded:
 * the memory a normalizer may take, which V8's limit on a string's length (512 M characters) ends.
 */
const buildLimitMs = 60_000
const encodeLimitMs = 5_000
const encodeLimitMsPerCharacter = 0.05
const decodeLimitMs = 5_000

const cachedWords = 10_000

export interface EncodeOptions {
  /** Add BOS and EOS as the tokenizer is set up to; false for rendered chats, whose template adds them. */
  addSpecial?: boolean
  /** Tokens that there is room for; a text that has more is E_CONTEXT, mostly before all of it is encoded. */
  context?: number
}

export interface DecodeOptions {
  /** Leave special tokens out. */
  skipSpecial?: boolean
}

export interface TokenizerOptions {
  /** Names the tokenizer in errors. */
  file?: string
  /** End tokens of the model's own config, beside the tokenizer's. */
  eosTokenIds?: readonly number[]
}

/**
 * These flags of a Llama tokenizer's config overrule tokenizer.json's post-processor, as in transformers 4, for which published
 * files were made; transformers 5 goes by tokenizer.json alone.
 */
function llamaFlags(config: Record<string, unknown>): { bos: boolean; eos: boolean } | undefined {
  if (!/^(Code)?LlamaTokenizer(Fast)?$/.test(String(config.tokenizer_class))) return undefined
  if (typeof config.add_bos_token !== 'boolean') return undefined
  return { bos: config.add_bos_token, eos: config.add_eos_token === true }
}

interface LibraryDecoder {
  config: { type?: unknown }
  /** Of a Sequence. */
  decoders?: LibraryDecoder[]
  text_decoder?: InstanceType<typeof TextDecoder>
}

/** The library's decoder of byte tokens drops U+FEFF, which is text like any other. */
function keepMarks(decoder: LibraryDecoder): void {
  decoder.decoders?.forEach(keepMarks)
  if (decoder.config.type === 'ByteFallback')
    decoder.text_decoder = new TextDecoder('utf-8', { ignoreBOM: true })
}

function tooLong(context: number): FlrcError {
  return new FlrcError(
    'E_CONTEXT',
    `more than ${context} prompt tokens leave no room in the context of ${context}; shorten the prompt`,
  )
}

/**
 * A model's tokenizer: text to ids and back. Ids are those of the Rust library on the same tokenizer.json.
 * Failures are E_TOKENIZER.
 */
export class Tokenizer {
  readonly bosToken: string | undefined
  readonly eosToken: string | undefined
  readonly bosTokenId: number | undefined
  readonly eosTokenId: number | undefined
  /** Every id that ends a text: the tokenizer's own and those of the model's config. */
  readonly eosTokenIds: readonly number[]
  readonly specialTokenIds: ReadonlySet<number>
  /** Whether encode adds BOS by default. */
  readonly addsBos: boolean
  /** One more than the largest id. */
  readonly vocabSize: number

  readonly #library: LibraryTokenizer
  readonly #limit: TokenLimit
  readonly #file: string
  readonly #overrule: { bos: boolean; eos: boolean } | undefined
  /** Only a decoder with patterns can hang, and watching one costs more than decoding a token. */
  readonly #watchDecoding: boolean

  /** A source that is a function is called within the limits of building. */
  constructor(
    given: TokenizerSource | (() => TokenizerSource),
    { file = 'tokenizer', eosTokenIds = [] }: TokenizerOptions = {},
  ) {
    this.#file = file
    const built = this.#guard('cannot be used', buildLimitMs, () => {
      const { tokenizer, config } = typeof given === 'function' ? given() : given
      const json = portableTokenizer(tokenizer)
      const bosToken = tokenText(config.bos_token)
      const eosToken = tokenText(config.eos_token)
      // The library looks strings up in this list; objects there, as some files have them, would be no match.
      const additional = Array.isArray(config.additional_special_tokens)
        ? config.additional_special_tokens.map(tokenText).filter((text) => text !== undefined)
        : []
      const strings = { ...config, bos_token: bosToken, eos_token: eosToken }
      const library = new LibraryTokenizer(json, { ...strings, additional_special_tokens: additional })
      if (library.decoder) keepMarks(library.decoder)
      wholeWords(library)
      if (library.model?.cache) library.model.cache = new TokenCache(cachedWords)
      // Of its own table: going through the names of tokenizer.json's once more takes twenty times as long.
      const vocabSize = vocabularySize(library.model?.tokens_to_ids.values() ?? [])
      const watchDecoding = JSON.stringify(json.decoder ?? null).includes('"Regex"')
      return { config, bosToken, eosToken, library, vocabSize, watchDecoding }
    })
    const { config, bosToken, eosToken, library, vocabSize, watchDecoding } = built
    this.#library = library
    this.#limit = new TokenLimit(library.model)
    this.#watchDecoding = watchDecoding
    this.vocabSize = vocabSize
    const added = library.get_added_tokens_decoder()
    this.specialTokenIds = new Set([...added].filter(([, token]) => token.special).map(([id]) => id))
    this.bosToken = bosToken
    this.eosToken = eosToken
    this.bosTokenId = bosToken === undefined ? undefined : this.idOf(bosToken)
    this.eosTokenId = eosToken === undefined ? undefined : this.idOf(eosToken)
    const ends = this.eosTokenId === undefined ? [] : [this.eosTokenId]
    this.eosTokenIds = [...new Set([...ends, ...eosTokenIds])]
    this.#overrule = llamaFlags(config)
    this.addsBos = this.bosTokenId !== undefined && this.encode('a')[0] === this.bosTokenId
  }

  /** Runs `task`, within `limitMs` where one is given; what goes wrong is E_TOKENIZER. */
  #guard<T>(what: string, limitMs: number | undefined, task: () => T): T {
    try {
      return limitMs === undefined ? task() : withTimeLimit(limitMs, task)
    } catch (error) {
      if (error instanceof FlrcError) throw error
      const reason = error instanceof Error ? error.message : String(error)
      const remedy =
        error instanceof TimeLimitError
          ? 'its patterns may be made to hang; use the tokenizer of the original model'
          : 'use the tokenizer files of the original model'
      throw new FlrcError('E_TOKENIZER', `${this.#file}: the tokenizer ${what} (${reason}); ${remedy}`, {
        file: this.#file,
        cause: error,
      })
    }
  }

  encode(
    text: string,
    { addSpecial = true, context = Number.POSITIVE_INFINITY }: EncodeOptions = {},
  ): Int32Array {
    const limit = encodeLimitMs + encodeLimitMsPerCharacter * text.length
    const ids: (number | undefined)[] = this.#guard('failed to encode a text', limit, () => {
      const plain = addSpecial && this.#overrule !== undefined
      const encode = () => this.#library.encode(text, { add_special_tokens: addSpecial && !plain }).ids
      const found = this.#limit.within(context, encode)
      if (found === undefined) throw tooLong(context)
      return found
    })
    const result = addSpecial ? this.#withEnds(ids) : ids
    if (result.length > context) throw tooLong(context)
    const unknown = result.indexOf(undefined)
    if (unknown >= 0) {
      throw new FlrcError(
        'E_TOKENIZER',
        `${this.#file}: a part of the text has no token (at token ${unknown}); use the tokenizer files of the original model`,
        { file: this.#file },
      )
    }
    return Int32Array.from(result, Number)
  }

  #withEnds(ids: (number | undefined)[]): (number | undefined)[] {
    const first = this.#overrule?.bos ? this.bosTokenId : undefined
    const last = this.#overrule?.eos ? this.eosTokenId : undefined
    return [...(first === undefined ? [] : [first]), ...ids, ...(last === undefined ? [] : [last])]
  }

  /** Text of ids; ids without a token (an embedding table may be larger than its vocabulary) have none. */
  decode(ids: ArrayLike<number>, { skipSpecial = true }: DecodeOptions = {}): string {
    const known = Array.from(ids).filter(
      (id) => this.tokenOf(id) !== undefined && !(skipSpecial && this.specialTokenIds.has(id)),
    )
    if (known.length === 0) return ''
    const limit = decodeLimitMs + encodeLimitMsPerCharacter * known.length
    return this.#guard('failed to decode', this.#watchDecoding ? limit : undefined, () =>
      // Cleaning up would take spaces away that the tokens have, and its result depends on what comes next.
      this.#library.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false }),
    )
  }

  /** A token's text inside a text: behind itself, so that a decoder that trims a text's first space leaves it its own. */
  textOf(id: number): string {
    const once = this.decode([id], { skipSpecial: false })
    return this.decode([id, id], { skipSpecial: false }).slice(once.length)
  }

  /** Decodes tokens one by one; `previous` are those before, whose text is not repeated. */
  stream(previous: ArrayLike<number> = []): TokenStream {
    return new TokenStream(this, previous)
  }

  idOf(token: string): number | undefined {
    return this.#library.token_to_id(token)
  }

  tokenOf(id: number): string | undefined {
    return this.#library.id_to_token(id)
  }
}

/** Tokens kept before new ones, so that a decoder that trims a text's first space sees it is not first. */
const contextTokens = 4
/** Tokens that may wait for the end of a character; more than its four bytes can need. */
const maxPending = 16

const replacement = '\ufffd'

/**
 * Text of a growing list of tokens, never splitting a character: bytes of one that is not complete wait for
 * the next token. The pieces joined are the text of all tokens.
 */
export class TokenStream {
  readonly #tokenizer: Tokenizer
  /** Tokens whose text is out, as context, and then those pending. */
  #window: number[]
  #context: number
  /** Length of the window's text that is out already. */
  #emitted: number

  constructor(tokenizer: Tokenizer, previous: ArrayLike<number>) {
    this.#tokenizer = tokenizer
    const shown = Array.from(previous).filter((id) => !tokenizer.specialTokenIds.has(id))
    this.#window = shown.slice(-contextTokens)
    this.#context = this.#window.length
    const text = tokenizer.decode(this.#window)
    // A character that the previous tokens leave open belongs to what comes.
    this.#emitted = text.endsWith(replacement) ? text.length - replacement.length : text.length
  }

  /** The text that this token completes; '' for special tokens and inside a character. */
  push(tokenId: number): string {
    if (this.#tokenizer.specialTokenIds.has(tokenId)) return ''
    this.#window.push(tokenId)
    const text = this.#tokenizer.decode(this.#window)
    const waiting = text.endsWith(replacement) && this.#window.length - this.#context <= maxPending
    const end = waiting ? text.length - replacement.length : text.length
    const piece = text.slice(this.#emitted, end)
    this.#emitted = Math.max(this.#emitted, end)
    if (!waiting) this.#restart()
    return piece
  }

  /** Whether bytes of a character that is not complete wait. */
  get waiting(): boolean {
    return this.#window.length > this.#context
  }

  /** What still waits, with U+FFFD for bytes that never became a character. */
  flush(): string {
    const piece = this.#tokenizer.decode(this.#window).slice(this.#emitted)
    this.#restart()
    return piece
  }

  #restart(): void {
    this.#window = this.#window.slice(-contextTokens)
    this.#context = this.#window.length
    this.#emitted = this.#tokenizer.decode(this.#window).length
  }
}
