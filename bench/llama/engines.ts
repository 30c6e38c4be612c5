import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import type { Model } from 'flrc'
import { decodeRun } from '#lib/bench/decode.js'
import { constant } from '#lib/schedule.js'

/** What a run took, in seconds: of a prompt up to its logits, and of so many single tokens after it. */
export interface Seconds {
  prefill: number
  decode: number
}

/** A model in an engine. */
export interface Subject {
  engine: string
  type: string
  /** Of its weights: in memory for flrc, the file's for others. */
  bytes: number
  run(prompt: readonly number[], tokens: number): Promise<Seconds>
}

/** A model at a level, of which prompts are taken at the same. */
export function flrcSubject(model: Model, type: string, level = 0): Subject {
  const { budget = 1, bytesPerToken = model.bytes } = model.levels[level] ?? {}
  const subject = { model, schedule: constant(budget) }
  const signal = new AbortController().signal
  return {
    engine: 'flrc',
    type,
    bytes: bytesPerToken,
    async run(prompt, tokens) {
      const run = await decodeRun(subject, prompt, tokens, signal, level)
      return { prefill: run.timeToFirstTokenMs / 1000, decode: tokens / run.tokensPerSecond }
    },
  }
}

/** A process that answers one line of JSON with another, and stays until `close`. */
export class Server {
  readonly #child
  readonly #lines: AsyncIterator<string>

  constructor(
    readonly command: string,
    args: readonly string[],
    cwd?: string,
  ) {
    this.#child = spawn(command, args, { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  async ask(question?: unknown): Promise<unknown> {
    if (question !== undefined) this.#child.stdin.write(`${JSON.stringify(question)}\n`)
    const { value, done } = await this.#lines.next()
    if (done === true) throw new Error(`${this.command} ended without an answer`)
    return JSON.parse(value)
  }

  close(): void {
    this.#child.kill()
  }
}

/** The `model`-th model of a server. */
export function servedSubject(
  server: Server,
  model: number,
  { engine, type, bytes }: Pick<Subject, 'engine' | 'type' | 'bytes'>,
): Subject {
  return {
    ...{ engine, type, bytes },
    async run(prompt, tokens) {
      const seconds = (await server.ask({ model, prompt, tokens })) as Seconds
      // Threads that wait for more work spin for a while.
      await setTimeout(50)
      return seconds
    },
  }
}
