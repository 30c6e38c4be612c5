import { toFlrcError } from '../binding.js'
import type { FlrcError } from '../errors.js'
import { GatheredPieces, type GenerationEnd, type Piece } from '../generate.js'
import type { Engine, ServedGeneration } from './engine.js'
import { closingFailure, failedAnswer } from './failure.js'
import { type AnswerForm, AnswerWriter } from './forms.js'
import type { Wanted } from './requests.js'

/** What becomes of a request. */
export interface RequestRecord {
  /** Of the prompt and the answer so far. */
  promptTokens: number
  completionTokens: number
  /** What failed, where the request is not to blame. */
  error?: FlrcError
}

export interface Asked {
  wanted: Wanted
  form: AnswerForm
  /** What the model is called. */
  name: string
  /** Fires when whoever asked is gone. */
  signal: AbortSignal
  /** Whether who asks takes an answer in chunks. */
  chunked: boolean
  /** Ends the connection of one who takes nothing for so long: others may wait for the turn. */
  cut: () => void
  stallMs: number
  /** Filled in as things happen. */
  record: RequestRecord
}

/** The answer as JSON, or as events. It rejects with what fails before the first token; later, events end with it. */
export async function answer(engine: Engine, asked: Asked): Promise<Response> {
  const writing = new Writing(engine.generate(asked.wanted, asked.signal), asked)
  if (!asked.wanted.stream) return Response.json(await writing.whole())
  // Waiting for the first token, what keeps it from coming still has a status of its own.
  const first = await writing.next()
  // Who still waits when the server closes is left without a word.
  if (first.done && first.value === undefined) throw closingFailure()
  return eventResponse(writing.events(first), () => writing.leave(), asked)
}

type NextPiece = IteratorResult<Piece, GenerationEnd | undefined>

/** One answer while it is generated. */
class Writing {
  readonly #generation: ServedGeneration
  readonly #name: string
  readonly #record: RequestRecord
  readonly #includeUsage: boolean
  readonly #writer: AnswerWriter
  readonly #gathered = new GatheredPieces()

  constructor(generation: ServedGeneration, { wanted, form, name, record }: Asked) {
    this.#generation = generation
    this.#name = name
    this.#record = record
    this.#includeUsage = wanted.includeUsage
    const { logprobs, sampling } = wanted
    const { schedule, levels } = generation
    const head = { model: name, logprobs, seed: sampling.seed, schedule, levels }
    this.#writer = new AnswerWriter(form, head, generation.started)
  }

  async whole(): Promise<unknown> {
    let result = await this.next()
    while (!result.done) result = await this.next()
    return this.#writer.whole(this.#gathered.completion(result.value), this.#gathered.pieces)
  }

  async *events(first: NextPiece): AsyncGenerator<string, void, void> {
    const writer = this.#writer
    const opening = writer.opening()
    if (opening) yield event(opening)
    try {
      let result = first
      while (!result.done) {
        const part = writer.part(result.value)
        if (part) yield event(part)
        result = await this.next()
      }
      const completion = this.#gathered.completion(result.value)
      yield event(writer.closing(completion))
      if (this.#includeUsage) yield event(writer.usage(completion))
    } catch (error) {
      const { status, body } = failedAnswer(error, this.#name)
      if (status === 500) this.#record.error = toFlrcError(error)
      yield event(body)
      return
    }
    yield 'data: [DONE]\n\n'
  }

  async leave(): Promise<void> {
    await this.#generation.pieces.return(undefined)
  }

  async next(): Promise<NextPiece> {
    const { pieces, started } = this.#generation
    const result = await pieces.next()
    this.#record.promptTokens = started.promptTokens
    if (!result.done) {
      this.#gathered.add(result.value)
      this.#record.completionTokens++
    }
    return result
  }
}

function event(data: unknown): string {
  return `data: ${JSON.stringify(data)}\n\n`
}

/**
 * Server-sent events. A token is generated when the one before it is on its way, so that generation is never further
 * ahead of a slow reader than what the connection holds.
 */
function eventResponse(
  source: AsyncGenerator<string, void, void>,
  leave: () => Promise<void>,
  { chunked, cut, stallMs }: Pick<Asked, 'chunked' | 'cut' | 'stallMs'>,
): Response {
  const encoder = new TextEncoder()
  let stalled: NodeJS.Timeout | undefined
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      clearTimeout(stalled)
      const { done, value } = await source.next()
      if (done) {
        controller.close()
        return
      }
      controller.enqueue(encoder.encode(value))
      stalled = setTimeout(cut, stallMs).unref()
    },
    async cancel() {
      clearTimeout(stalled)
      await leave()
    },
  })
  return new Response(body, {
    headers: {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Without it, the adapter holds the first events back to see whether there are more.
      ...(chunked ? { 'transfer-encoding': 'chunked' } : { connection: 'close' }),
    },
  })
}
