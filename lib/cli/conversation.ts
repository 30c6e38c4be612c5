import { createInterface } from 'node:readline/promises'
import type { Readable, Writable } from 'node:stream'
import { FlrcError } from '../errors.js'
import type { Chat, ChatMessage } from '../generate/chat.js'
import { type Completion, complete, type GenerateOptions, type Piece } from '../generate.js'
import type { Model } from '../public-model.js'

/** What was said, and the answer. */
export interface Turn extends Completion {
  prompt: string
}

/** Where a conversation takes place. */
export interface Scene {
  /** A message a line. */
  input: Readable
  /** A terminal that shows the prompt and edits lines; undefined where nobody types. */
  terminal: Writable | undefined
  onPiece?: (piece: Piece) => unknown
  /** Called after each answer, complete or not. */
  onAnswered?: () => unknown
  note: (text: string) => void
  /** Ends the program, as Ctrl-C does outside an answer. */
  interrupt: () => void
  signal: AbortSignal
}

/**
 * Answers the lines of the input, one after another, until it ends; the turns that were answered whole. In a terminal
 * Ctrl-C ends an answer, and `/clear` and `/exit` are commands. Turns that no longer fit the context are forgotten,
 * the oldest first. Errors: those of `Chat.send`; E_CONTEXT only where a message does not fit alone.
 */
export async function converse(
  model: Model,
  opening: readonly ChatMessage[],
  settings: Omit<GenerateOptions, 'signal'>,
  scene: Scene,
): Promise<Turn[]> {
  const { input, terminal, note, signal } = scene
  const lines = createInterface({
    input,
    output: terminal,
    terminal: terminal !== undefined,
    prompt: '> ',
    signal,
  })
  let answer: AbortController | undefined
  lines.on('SIGINT', () => {
    if (answer === undefined || answer.signal.aborted) scene.interrupt()
    answer?.abort()
  })
  let ended = false
  lines.once('close', () => {
    ended = true
  })
  // What is typed while the model answers waits for its turn.
  const prompt = () => terminal && !ended && lines.prompt()
  const turns: Turn[] = []
  let chat = model.chat({ messages: opening })
  try {
    prompt()
    for await (const line of lines) {
      if (terminal && line.trim() === '/exit') break
      if (terminal && line.trim() === '/clear') {
        restart(opening)
      } else if (line.trim() !== '') {
        answer = new AbortController()
        const options = { ...settings, signal: AbortSignal.any([signal, answer.signal]) }
        try {
          turns.push(await say(line, options))
        } catch (error) {
          const cut = answer.signal.aborted && !signal.aborted
          const long = terminal !== undefined && error instanceof FlrcError && error.code === 'E_CONTEXT'
          if (!cut && !long) throw error
          if (long) note(`note: ${(error as FlrcError).message}`)
        }
        answer = undefined
        await scene.onAnswered?.()
      }
      prompt()
    }
  } finally {
    lines.close()
    chat.dispose()
  }
  return turns

  function restart(messages: readonly ChatMessage[]): void {
    chat.dispose()
    chat = model.chat({ messages })
  }

  async function say(content: string, options: GenerateOptions): Promise<Turn> {
    const before = [...chat.messages]
    let dropped = 0
    // Turns are forgotten once there is an answer without them.
    const forget = () => {
      for (; dropped > 0; dropped--) note('note: the context is full; the oldest turn is forgotten')
    }
    const onPiece = (piece: Piece) => {
      forget()
      return scene.onPiece?.(piece)
    }
    for (;;) {
      try {
        const completion = await complete(chat.send(content, options), onPiece)
        forget()
        return { prompt: content, ...completion }
      } catch (error) {
        const rest = shortened(chat, opening.length, error)
        if (rest === undefined && dropped > 0) restart(before)
        if (rest === undefined) throw error
        dropped++
        restart(rest)
      }
    }
  }
}

/** The messages without their first exchange, where there is one and the context is what failed. */
function shortened({ messages }: Chat, opening: number, error: unknown): ChatMessage[] | undefined {
  if (!(error instanceof FlrcError) || error.code !== 'E_CONTEXT' || messages.length <= opening)
    return undefined
  return [...messages.slice(0, opening), ...messages.slice(opening + 2)]
}
