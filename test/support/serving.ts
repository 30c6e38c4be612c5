import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import * as assert from 'uvu/assert'
import {
  compress,
  Model,
  type ModelServer,
  type Schedule,
  type ServedRequest,
  type ServeOptions,
  serve,
} from '#lib/index.js'
import { tinyModel } from './child.js'

/** What the tests of the server serve, ask and expect. */

export const model = await Model.load(tinyModel)

/** One with two levels. */
export const smallModel = () =>
  compress(model, {
    ...{ keep: 0.8, levels: [0.8, 0.6], samples: 4, seqLen: 64 },
    calibration: [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')],
  })

export const prompt = 'Once upon a time there was a king who'
export const messages = [
  { role: 'system', content: 'Speak in verse.' },
  { role: 'user', content: 'Continue this text.' },
]
export const completions = '/v1/completions'
export const chats = '/v1/chat/completions'

interface Choice {
  text?: string
  message?: { role: string; content: string }
  delta?: { role?: string; content?: string }
  logprobs: Record<string, unknown[]> | null
  finish_reason: string | null
}

export interface SaidToken {
  token: string
  logprob: number
  bytes: number[] | null
  top_logprobs: Omit<SaidToken, 'top_logprobs'>[]
}

export interface Answer {
  object: string
  created: number
  choices: [Choice]
  usage: {
    prompt_tokens: number
    completion_tokens: number
    total_tokens: number
    prompt_tokens_details: { cached_tokens: number }
  }
  flrc: { seed: number; schedule: string; meanActiveBudget: number; levels: number[]; waitedMs: number }
  error: { message: string; type: string; param: string | null; code: string }
}

/** A server of its own, on a free port; `requests` are those that it has heard of. */
export async function serving(
  run: (server: ModelServer, requests: ServedRequest[]) => Promise<void>,
  options: ServeOptions = {},
  served = model,
): Promise<void> {
  const requests: ServedRequest[] = []
  const server = await serve(served, { port: 0, onRequest: (request) => requests.push(request), ...options })
  try {
    await run(server, requests)
  } finally {
    await server.close()
  }
}

export const post = (url: string, body: unknown, init: RequestInit = {}) =>
  fetch(url, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  })

export async function ask(url: string, body: unknown, status = 200): Promise<Answer> {
  const response = await post(url, body)
  const answer = (await response.json()) as Answer
  assert.is(response.status, status, JSON.stringify(answer))
  return answer
}

/** The events of a stream, which must end with [DONE] unless an error ends it. */
export async function eventsOf(response: Response): Promise<Answer[]> {
  assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/)
  const events = (await response.text()).split('\n\n').slice(0, -1)
  assert.ok(events.every((event) => event.startsWith('data: ')))
  const data = events.map((event) => event.slice('data: '.length))
  const parsed = data.filter((event) => event !== '[DONE]').map((event) => JSON.parse(event) as Answer)
  assert.is(data.at(-1) === '[DONE]', parsed.at(-1)?.error === undefined)
  return parsed
}

export const textOf = ({ choices: [choice] }: Answer) => choice.text ?? choice.message?.content

/** Level 0 throughout, at a pace that leaves time to do something before an answer of 500 greedy tokens is whole. */
export const slow: Schedule = () => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3)
  return 1
}

/** Waits for what comes about soon. */
export async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 500, 'it does not come about')
    await setTimeout(10)
  }
}

/** All that the server says to bytes of a request, until it closes the connection. */
export async function exchange(url: string, request: string): Promise<string> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.write(request)
  let text = ''
  for await (const bytes of socket) text += bytes
  return text
}
