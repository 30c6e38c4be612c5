import { readFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DecodeBatch } from '#lib/generate/batch.js'
import {
  complete,
  compress,
  Model,
  type ModelServer,
  type Piece,
  type Schedule,
  type ServedRequest,
  type ServeOptions,
  serve,
} from '#lib/index.js'
import { serverApp } from '#lib/server/app.js'
import { hold, PromptCaches } from '#lib/server/caches.js'
import { Engine } from '#lib/server/engine.js'
import { readCompletionRequest } from '#lib/server/requests.js'
import { Session } from '#lib/session.js'
import { root, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'

const model = await Model.load(tinyModel)
const small = await compress(model, {
  ...{ keep: 0.8, levels: [0.8, 0.6], samples: 4, seqLen: 64 },
  calibration: [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')],
})

const prompt = 'Once upon a time there was a king who'
const messages = [
  { role: 'system', content: 'Speak in verse.' },
  { role: 'user', content: 'Continue this text.' },
]
const completions = '/v1/completions'
const chats = '/v1/chat/completions'

interface Choice {
  text?: string
  message?: { role: string; content: string }
  delta?: { role?: string; content?: string }
  logprobs: Record<string, unknown[]> | null
  finish_reason: string | null
}

interface SaidToken {
  token: string
  logprob: number
  bytes: number[] | null
  top_logprobs: Omit<SaidToken, 'top_logprobs'>[]
}

interface Answer {
  object: string
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
async function serving(
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

const post = (url: string, body: unknown, init: RequestInit = {}) =>
  fetch(url, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  })

async function ask(url: string, body: unknown, status = 200): Promise<Answer> {
  const response = await post(url, body)
  const answer = (await response.json()) as Answer
  assert.is(response.status, status, JSON.stringify(answer))
  return answer
}

/** The events of a stream, which must end with [DONE] unless an error ends it. */
async function eventsOf(response: Response): Promise<Answer[]> {
  assert.match(response.headers.get('content-type') ?? '', /^text\/event-stream/)
  const events = (await response.text()).split('\n\n').slice(0, -1)
  assert.ok(events.every((event) => event.startsWith('data: ')))
  const data = events.map((event) => event.slice('data: '.length))
  const parsed = data.filter((event) => event !== '[DONE]').map((event) => JSON.parse(event) as Answer)
  assert.is(data.at(-1) === '[DONE]', parsed.at(-1)?.error === undefined)
  return parsed
}

const textOf = ({ choices: [choice] }: Answer) => choice.text ?? choice.message?.content

/** Level 0 throughout, at a pace that leaves time to do something before an answer of 500 greedy tokens is whole. */
const slow: Schedule = () => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3)
  return 1
}

/** Waits for what comes about soon. */
async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 500, 'it does not come about')
    await setTimeout(10)
  }
}

const endpoints = suite('endpoints')

endpoints('health, and the model that is served', () =>
  serving(async ({ url, model: name }) => {
    assert.is(name, 'tiny')
    assert.equal(await (await fetch(`${url}/health`)).json(), { status: 'ok' })
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as {
      data: [{ id: string; flrc: { contextLength: number } }]
    }
    assert.is(data[0].id, 'tiny')
    assert.is(data[0].flrc.contextLength, 512)
    assert.equal(await (await fetch(`${url}/v1/models/tiny`)).json(), data[0])
    for (const path of ['/v1/models/other', '/v1/embeddings', '/']) {
      const response = await fetch(url + path)
      assert.is(response.status, 404)
      assert.is(((await response.json()) as Answer).error.type, 'not_found_error')
    }
  }),
)

endpoints('greedy texts are those of the API, from text and from token ids', () =>
  serving(async ({ url }) => {
    const own = await complete(model.generate(prompt, { maxTokens: 24 }))
    const tokens = Array.from(model.tokenizer.encode(prompt))
    for (const one of [prompt, [prompt], tokens, [tokens]]) {
      const answer = await ask(url + completions, { prompt: one, max_tokens: 24, temperature: 0 })
      assert.is(answer.object, 'text_completion')
      assert.is(textOf(answer), own.text)
      assert.is(answer.choices[0].finish_reason, 'length')
      const { prompt_tokens, completion_tokens, total_tokens } = answer.usage
      assert.equal([prompt_tokens, completion_tokens, total_tokens], [tokens.length, 24, tokens.length + 24])
    }
    const chat = model.chat({ messages: [{ role: 'system', content: 'Speak in verse.' }] })
    const said = await complete(chat.send('Continue this text.', { maxTokens: 24 }))
    const answer = await ask(url + chats, { messages, max_completion_tokens: 24, temperature: 0 })
    assert.is(answer.object, 'chat.completion')
    assert.equal(answer.choices[0].message, { role: 'assistant', content: said.text, refusal: null })
    assert.is(answer.usage.prompt_tokens, said.promptTokens)
    const parts = messages.map(({ role, content }) => ({
      role: role === 'system' ? 'developer' : role,
      content: content.split(' ').map((text) => ({ type: 'text', text })),
    }))
    const joined = await ask(url + chats, { messages: parts, max_tokens: 1 })
    assert.is.not(joined.usage.prompt_tokens, 0)
  }),
)

endpoints('as many of the likeliest tokens as are asked for stand beside each', () =>
  serving(async ({ url }) => {
    const sampling = { max_tokens: 8, temperature: 0, cache_prompt: false }
    const own: Piece[] = []
    await complete(model.generate(prompt, { maxTokens: 8, topLogprobs: 4 }), (piece) => own.push(piece))
    // Side by side they go through one pass.
    const [written, , spoken, none] = await Promise.all([
      ask(url + completions, { ...sampling, prompt, logprobs: 4 }),
      ask(url + completions, { ...sampling, prompt, logprobs: 2 }),
      ask(url + chats, { ...sampling, messages, logprobs: true, top_logprobs: 4 }),
      ask(url + chats, { ...sampling, messages, logprobs: true }),
    ])
    const expected = own.map(({ topLogprobs = [] }) =>
      Object.fromEntries(topLogprobs.toReversed().map(({ text, logprob }) => [text, logprob])),
    )
    assert.equal(written.choices[0].logprobs?.top_logprobs, expected)
    const said = (answer: Answer) => (answer.choices[0].logprobs?.content ?? []) as SaidToken[]
    assert.is(said(spoken).length, 8)
    for (const { token, logprob, top_logprobs: top } of said(spoken)) {
      assert.is(top.length, 4)
      assert.is(top[0]?.logprob, logprob)
      assert.ok(top[0]?.token.endsWith(token.trimStart()))
      assert.ok(top.every(({ token: text, bytes }) => bytes === null || Buffer.from(bytes).toString() === text))
    }
    assert.ok(said(none).every(({ top_logprobs: top }) => top.length === 0))
  }),
)

endpoints('a stream says what the whole answer does', () =>
  serving(async ({ url }) => {
    const sampling = { max_tokens: 24, seed: 5, cache_prompt: false }
    for (const [endpoint, body] of [
      [completions, { ...sampling, prompt, logprobs: 0 }],
      [chats, { ...sampling, messages, logprobs: true, top_logprobs: 0 }],
      [completions, { ...sampling, prompt, logprobs: 3 }],
      [chats, { ...sampling, messages, logprobs: true, top_logprobs: 3 }],
    ] as const) {
      const whole = await ask(url + endpoint, body)
      const events = await eventsOf(
        await post(url + endpoint, { ...body, stream: true, stream_options: { include_usage: true } }),
      )
      const usage = events.pop()
      assert.equal(usage?.choices, [])
      assert.equal(usage?.usage, whole.usage)
      assert.is(new Set(events.map((event) => (event as unknown as { id: string }).id)).size, 1)
      const texts = events.map(({ choices: [choice] }) => choice.text ?? choice.delta?.content ?? '')
      assert.is(texts.join(''), textOf(whole))
      const finish = events.map(({ choices: [choice] }) => choice.finish_reason)
      assert.equal(finish, [...Array(events.length - 1).fill(null), 'length'])
      assert.is(events.at(-1)?.flrc.meanActiveBudget, 1)
      for (const key of endpoint === chats ? ['content'] : ['tokens', 'token_logprobs', 'text_offset']) {
        const said = events.flatMap(({ choices: [choice] }) => choice.logprobs?.[key] ?? [])
        assert.equal(said, whole.choices[0].logprobs?.[key])
        assert.is(said.length, 24)
      }
    }
    const plain = await eventsOf(await post(url + chats, { messages, max_tokens: 2, stream: true }))
    assert.equal(plain[0]?.choices[0].delta, { role: 'assistant', content: '' })
    assert.ok(plain.every(({ usage }) => usage === undefined))
  }),
)

endpoints('seeds repeat an answer, and one that was drawn is told', () =>
  serving(async ({ url }) => {
    const body = { prompt, max_tokens: 24, cache_prompt: false }
    const first = await ask(url + completions, body)
    const again = await ask(url + completions, { ...body, seed: first.flrc.seed })
    assert.is(textOf(again), textOf(first))
    const drawn = await ask(url + completions, { ...body, seed: null })
    assert.is.not(drawn.flrc.seed, first.flrc.seed)
    const { seed } = first.flrc
    const own = { maxTokens: 24, temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05, seed }
    assert.is(
      textOf(first),
      (await complete(model.generate(prompt, own))).text,
      'the defaults that are documented',
    )
    const likeliest = await ask(url + completions, { ...body, temperature: 1, top_p: 0 })
    assert.is(textOf(likeliest), textOf(await ask(url + completions, { ...body, temperature: 0 })))
  }),
)

endpoints('penalties are those of the API', () =>
  serving(async ({ url }) => {
    const body = { prompt, max_tokens: 40, temperature: 0 }
    const penalties = { repeatPenalty: 1.3, frequencyPenalty: 0.5, presencePenalty: 0.5 }
    const own = await complete(model.generate(prompt, { maxTokens: 40, ...penalties }))
    const fields = { repeat_penalty: 1.3, frequency_penalty: 0.5, presence_penalty: 0.5 }
    const answer = await ask(url + completions, { ...body, ...fields })
    assert.is(textOf(answer), own.text)
    assert.is.not(textOf(answer), textOf(await ask(url + completions, body)))
  }),
)

endpoints('stop strings end the text before them, and the context ends what has no limit', () =>
  serving(async ({ url }) => {
    const body = { prompt, max_tokens: 40, temperature: 0 }
    const whole = textOf(await ask(url + completions, body)) ?? ''
    const stop = whole.slice(20, 27)
    for (const stops of [stop, ['never there', stop]]) {
      const stopped = await ask(url + completions, { ...body, stop: stops })
      assert.is(textOf(stopped), whole.slice(0, whole.indexOf(stop)))
      assert.is(stopped.choices[0].finish_reason, 'stop')
    }
    for (const max_tokens of [undefined, -1, 4096]) {
      const full = await ask(url + completions, { prompt, temperature: 0, max_tokens, logit_bias: {} })
      const ended = full.choices[0].finish_reason === 'stop' ? 0 : 512
      assert.ok(full.usage.total_tokens >= ended && full.usage.completion_tokens > 40)
    }
    assert.is((await ask(url + completions, { prompt, max_tokens: 0 })).usage.completion_tokens, 0)
  }),
)

endpoints('a schedule lowers the level, of the server or of one request', () =>
  serving(
    async ({ url }) => {
      const budgets = small.levels.map(({ budget }) => budget)
      const [high = 0, low = 0] = budgets
      const body = { prompt, max_tokens: 8, temperature: 0 }
      const usual = await ask(url + completions, body)
      assert.equal([usual.flrc.schedule, usual.flrc.levels], ['step:.8:.6:4', [4, 4]])
      assert.ok(Math.abs(usual.flrc.meanActiveBudget - (high + low) / 2) < 1e-12)
      const own = await complete(small.generate(prompt, { maxTokens: 8, schedule: 'step:.8:.6:4' }))
      assert.is(textOf(usual), own.text)
      const full = await ask(url + completions, { ...body, schedule: 'full' })
      assert.equal([full.flrc.schedule, full.flrc.levels], ['full', [8, 0]])
      for (const schedule of ['half', 'constant:.9']) {
        const { error } = await ask(url + completions, { ...body, schedule }, 400)
        assert.is(error.code, 'E_USAGE')
        assert.match(error.message, /schedule/)
      }
    },
    { schedule: 'step:.8:.6:4' },
    small,
  ),
)

const refusals = suite('refusals')

refusals('what is not supported is said, and what changes nothing is not', () =>
  serving(async ({ url }) => {
    const wrong: [endpoint: string, param: string, fields: object][] = [
      [chats, 'n', { n: 2 }],
      [chats, 'tools', { tools: [{ type: 'function' }] }],
      [chats, 'tool_choice', { tool_choice: 'required' }],
      [chats, 'frequency_penalty', { frequency_penalty: 3 }],
      [chats, 'repeat_penalty', { repeat_penalty: 0 }],
      [chats, 'logit_bias', { logit_bias: { 5: 1 } }],
      [chats, 'response_format', { response_format: { type: 'json_object' } }],
      [chats, 'top_logprobs', { logprobs: true, top_logprobs: 21 }],
      [chats, 'top_logprobs', { logprobs: true, top_logprobs: '3' }],
      [chats, 'top_logprobs', { top_logprobs: 3 }],
      [chats, 'mirostat', { mirostat: 2 }],
      [chats, 'temperature', { temperature: -1 }],
      [chats, 'temperature', { temperature: '1' }],
      [chats, 'top_p', { top_p: 2 }],
      [chats, 'max_tokens', { max_tokens: 1.5 }],
      [chats, 'seed', { seed: -2 }],
      [chats, 'stop', { stop: '' }],
      [chats, 'stop', { stop: ['a', 'b', 'c', 'd', 'e'] }],
      [chats, 'stream', { stream: 'yes' }],
      [chats, 'stream_options', { stream_options: { include_usage: true } }],
      [chats, 'messages', { messages: [] }],
      [chats, 'messages', { messages: 'Hello' }],
      [chats, 'messages.0.role', { messages: [{ role: 'tool', content: 'x' }] }],
      [chats, 'messages.0.content', { messages: [{ role: 'user' }] }],
      [
        chats,
        'messages.0.content.0.type',
        { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:' } }] }] },
      ],
      [completions, 'prompt', { prompt: ['a', 'b'] }],
      [completions, 'prompt', { prompt: null }],
      [completions, 'best_of', { best_of: 3 }],
      [completions, 'echo', { echo: true }],
      [completions, 'suffix', { suffix: 'end' }],
      [completions, 'logprobs', { logprobs: -1 }],
      [completions, 'logprobs', { logprobs: true }],
    ]
    for (const [endpoint, param, fields] of wrong) {
      const good = endpoint === chats ? { messages } : { prompt }
      const { error } = await ask(url + endpoint, { ...good, ...fields }, 400)
      assert.equal([error.type, error.param, error.code], ['invalid_request_error', param, 'E_USAGE'])
      assert.ok(error.message.startsWith(param.split('.')[0] ?? ''), error.message)
    }
    const harmless = {
      user: 'me',
      model: 'gpt',
      metadata: {},
      store: false,
      n: 1,
      tools: [],
      tool_choice: 'none',
    }
    const neutral = { frequency_penalty: 0, presence_penalty: 0, logit_bias: {}, stop: null, seed: null }
    await ask(url + chats, { messages, max_tokens: 1, ...harmless, ...neutral })
    const missing = await ask(url + completions, {}, 400)
    assert.is(missing.error.param, 'prompt')
    const outside = await ask(url + completions, { prompt: [99999], max_tokens: 1 }, 400)
    assert.is(outside.error.code, 'E_USAGE')
    const begin = performance.now()
    for (const text of ['word '.repeat(600), 'word '.repeat(200_000)]) {
      const long = await ask(url + completions, { prompt: text }, 400)
      assert.is(long.error.code, 'E_CONTEXT')
      assert.match(long.error.message, /^more than 512 prompt tokens leave no room in the context of 512/)
    }
    assert.ok(performance.now() - begin < 3000, 'a text that cannot fit is not encoded whole')
    const full = await ask(url + completions, { prompt: Array(512).fill(5) }, 400)
    assert.match(full.error.message, /^512 prompt tokens leave no room in the context of 512/)
  }),
)

refusals('bodies that are no JSON, called something else, or too long', () =>
  serving(async ({ url }) => {
    const deep = (levels: number) =>
      `{"prompt": "x", "max_tokens": 1, "metadata": ${'['.repeat(levels)}${']'.repeat(levels)}}`
    assert.is((await post(url + completions, deep(50))).status, 200)
    for (const body of [deep(100), deep(200_000), `{"n": ${'['.repeat(200_000)}${']'.repeat(200_000)}}`]) {
      const { error } = await ask(url + completions, body, 400)
      assert.equal([error.type, error.code], ['invalid_request_error', 'E_USAGE'])
      assert.match(error.message, 'nested deeper')
    }
    for (const body of ['{"prompt": "x",}', '', '[]', 'null']) {
      const { error } = await ask(url + completions, body, 400)
      assert.equal([error.code, error.param], ['E_USAGE', null])
    }
    for (const type of ['text/plain', 'application/x-www-form-urlencoded']) {
      const response = await post(url + completions, { prompt }, { headers: { 'content-type': type } })
      assert.is(response.status, 415)
    }
    const long = JSON.stringify({ prompt: 'x'.repeat(2 ** 20) })
    assert.is((await ask(url + completions, long, 413)).error.code, 'body_too_large')
    const inParts = (body: string) => ({ body: new Blob([body]).stream(), duplex: 'half' }) as RequestInit
    assert.is((await post(url + completions, '', inParts(long))).status, 413)
    const short = JSON.stringify({ prompt, max_tokens: 1 })
    assert.is((await post(url + completions, '', inParts(short))).status, 200)
  }),
)

refusals('a key, where one is set, and no other', () =>
  serving(
    async ({ url }) => {
      assert.is((await fetch(`${url}/health`)).status, 200)
      for (const authorization of [undefined, 'Bearer', 'Bearer wrong', 'Basic secret', 'Bearer secret2']) {
        const response = await fetch(`${url}/v1/models`, { headers: authorization ? { authorization } : {} })
        const { error } = (await response.json()) as Answer
        assert.equal([response.status, error.code], [401, 'invalid_api_key'])
        assert.is(response.headers.get('www-authenticate'), 'Bearer')
        assert.not.match(error.message, /secret/)
      }
      const headers = { authorization: 'Bearer secret' }
      assert.is((await post(url + completions, { prompt, max_tokens: 1 }, { headers })).status, 200)
    },
    { apiKey: 'secret' },
  ),
)

/** Of a request that names `host`, which fetch does not let one do. */
function statusFor(url: string, host: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(`${url}/v1/models`, { headers: { host, authorization: 'Bearer key' } })
    request.on('error', reject)
    request.on('response', (response) => {
      response.resume()
      resolve(response.statusCode)
    })
    request.end()
  })
}

refusals('without a key, only requests that name this machine', async () => {
  await serving(async ({ url }) => {
    for (const host of [
      'localhost',
      'localhost:80',
      '127.0.0.1:8080',
      '[::1]:1',
      '192.168.0.7',
      'x.localhost',
    ]) {
      assert.is(await statusFor(url, host), 200, host)
    }
    for (const host of ['example.com', 'localhost.example.com:8080', '127.0.0.1.example.com']) {
      assert.is(await statusFor(url, host), 403, host)
    }
  })
  await serving(async ({ url }) => assert.is(await statusFor(url, 'example.com'), 200), { apiKey: 'key' })
})

refusals('options that cannot be used, and an address that is taken', () =>
  serving(async ({ url }) => {
    const port = Number(new URL(url).port)
    await throwsFlrcError(() => serve(model, { port }), { code: 'E_IO', message: /127\.0\.0\.1, port \d+: / })
    await throwsFlrcError(() => serve(model, { port: 0, host: '192.0.2.1' }), { code: 'E_IO' })
    const wrong: ServeOptions[] = [
      ...[{ port: 65536 }, { port: -1 }, { parallel: 0 }, { queue: -1 }, { cacheBytes: -1 }],
      ...[{ apiKey: '' }, { schedule: 'half' }],
      ...([{ host: 5 }, { apiKey: 5 }, { onRequest: 'log' }] as unknown as ServeOptions[]),
    ]
    for (const options of wrong) {
      await throwsFlrcError(() => serve(model, { port: 0, ...options }), { code: 'E_USAGE' })
    }
    await throwsFlrcError(() => serve({} as Model), { code: 'E_USAGE' })
  }),
)

refusals('a listener that fails is warned of, and ends nothing', async () => {
  const warnings: string[] = []
  const onWarning = ({ message }: Error) => warnings.push(message)
  process.on('warning', onWarning)
  const listeners: ServeOptions['onRequest'][] = [
    () => {
      throw new Error('thrown')
    },
    async () => {
      throw new Error('rejected')
    },
  ]
  for (const onRequest of listeners) {
    await serving(
      async ({ url }) => {
        const before = warnings.length
        await ask(url + completions, { prompt, max_tokens: 1 })
        await until(() => warnings.length > before)
        assert.is((await fetch(`${url}/health`)).status, 200)
      },
      { onRequest },
    )
  }
  process.off('warning', onWarning)
  assert.match(warnings[0] ?? '', /onRequest failed: Error: thrown/)
  assert.ok(warnings.some((warning) => warning.includes('rejected')))
})

/** All that the server says to bytes of a request, until it closes the connection. */
async function exchange(url: string, request: string): Promise<string> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.write(request)
  let text = ''
  for await (const bytes of socket) text += bytes
  return text
}

endpoints('a client of HTTP/1.0 gets events as they are, and then the end of the connection', () =>
  serving(async ({ url }) => {
    const body = JSON.stringify({ prompt, max_tokens: 2, stream: true })
    const headers = ['Host: 127.0.0.1', 'Connection: keep-alive', 'Content-Type: application/json']
    const head = [`POST ${completions} HTTP/1.0`, ...headers, `Content-Length: ${body.length}`]
    const said = await exchange(url, `${head.join('\r\n')}\r\n\r\n${body}`)
    const [answerHead = '', ...events] = said.split('\r\n\r\n')
    assert.match(answerHead, /^HTTP\/1\.\d 200/)
    assert.not.match(answerHead, /transfer-encoding/i)
    assert.match(events.join(''), /^data: \{.*data: \[DONE\]\n\n$/s)
  }),
)

const together = suite('requests at once')

together('each gets what it would get alone, through shared reads of the weights', async () => {
  const decodeEach = Session.decodeEach
  const sizes: number[] = []
  Session.decodeEach = (requests, signal) => {
    sizes.push(requests.length)
    return decodeEach.call(Session, requests, signal)
  }
  try {
    await serving(
      async ({ url }) => {
        const schedules = ['full', 'step:.8:.6:8']
        const bodies = Array.from({ length: 6 }, (_, index) => ({
          ...{ prompt: `${prompt} ${index}`, max_tokens: 48, seed: index, temperature: index % 3 },
          ...{ schedule: schedules[index % 2], stream: index > 3, logprobs: 0, cache_prompt: false },
        }))
        const responses = await Promise.all(bodies.map((body) => post(url + completions, body)))
        const most = Math.max(...sizes)
        assert.ok(most > 1 && most <= 4, `${most} side by side`)
        for (const [index, response] of responses.entries()) {
          const { schedule, seed, temperature, stream, prompt } = bodies[index] as (typeof bodies)[number]
          const answers = stream ? await eventsOf(response) : [(await response.json()) as Answer]
          const usual = { topK: 40, topP: 0.95, minP: 0.05 }
          const options = { maxTokens: 48, schedule, seed, temperature, ...usual }
          const logprobs: number[] = []
          const own = await complete(small.generate(prompt, options), ({ logprob }) => logprobs.push(logprob))
          assert.is(answers.map(textOf).join(''), own.text)
          const told = answers.flatMap(({ choices: [choice] }) => choice.logprobs?.token_logprobs ?? [])
          assert.equal(told, logprobs)
        }
      },
      {},
      small,
    )
  } finally {
    Session.decodeEach = decodeEach
  }
})

together('beyond those that run some wait, and the rest are sent away', () =>
  serving(
    async ({ url }, requests) => {
      const left = new AbortController()
      const endless = { prompt, temperature: 0, stream: true }
      const stream = await post(url + completions, endless, { signal: left.signal })
      const waiting = post(url + completions, { prompt, max_tokens: 1 })
      const leaving = new AbortController()
      const left2 = post(url + completions, { prompt, max_tokens: 1 }, { signal: leaving.signal })
      await setTimeout(50)
      const busy = await post(url + completions, { prompt, max_tokens: 1 })
      const { error } = (await busy.json()) as Answer
      assert.equal([busy.status, error.code, error.type], [503, 'busy', 'unavailable_error'])
      assert.ok(Number(busy.headers.get('retry-after')) > 0)
      leaving.abort()
      await left2.catch(() => undefined)
      left.abort()
      await stream.text().catch(() => undefined)
      assert.is((await waiting).status, 200)
      await until(() => requests.length === 4)
      assert.equal(requests.map(({ status }) => status).sort(), [200, 499, 499, 503])
    },
    { parallel: 1, queue: 2, schedule: slow },
  ),
)

together('whoever leaves ends its generation', () =>
  serving(
    async ({ url }, requests) => {
      for (const stream of [true, false]) {
        const left = new AbortController()
        const answer = post(url + completions, { prompt, temperature: 0, stream }, { signal: left.signal })
        if (stream) await (await answer).body?.getReader().read()
        else await setTimeout(20)
        left.abort()
        await answer.catch(() => undefined)
        // The only turn there is was handed on.
        assert.is((await ask(url + completions, { prompt, max_tokens: 1 })).usage.completion_tokens, 1)
        await until(() => requests.length === 2)
        const [cut] = requests.splice(0).filter(({ status }) => status === 499)
        assert.ok(cut && cut.completionTokens < 400, JSON.stringify(cut))
        assert.is(cut.error, undefined)
      }
    },
    { parallel: 1, schedule: slow },
  ),
)

together('a reader that stalls is waited for a while, and holds up no other', async () => {
  const engine = new Engine(model, { parallel: 2, queue: 0, cacheBytes: 0, schedule: undefined })
  const app = serverApp(engine, { host: '127.0.0.1', apiKey: undefined, name: 'tiny', stallMs: 200 })
  let cuts = 0
  const cut = () => {
    cuts++
  }
  const asked = (body: object) => {
    const record = { promptTokens: 0, completionTokens: 0 }
    const context = { record, chunked: true, cut }
    const headers = { 'content-type': 'application/json', host: 'localhost' }
    const init = { method: 'POST', body: JSON.stringify({ prompt, temperature: 0, ...body }), headers }
    return { record, response: Promise.resolve(app.request(completions, init, context)) }
  }
  const stalled = asked({ stream: true })
  const reader = (await stalled.response).body?.getReader()
  await reader?.read()
  const other = (await (await asked({ max_tokens: 100 }).response).json()) as Answer
  assert.is(other.usage.completion_tokens, 100)
  const ahead = stalled.record.completionTokens
  assert.ok(ahead < 5, `${ahead} tokens ahead of a reader that took one event`)
  await reader?.read()
  await until(() => stalled.record.completionTokens > ahead)
  assert.is(cuts, 0)
  await until(() => cuts === 1)
  await reader?.cancel()
  // Its turn is free again, and there is no queue.
  await Promise.all([asked({ max_tokens: 1 }), asked({ max_tokens: 1 })].map(({ response }) => response))
  await engine.close()
})

together('whoever has left before it begins has no generation', async () => {
  const engine = new Engine(model, { parallel: 1, queue: 0, cacheBytes: 0, schedule: undefined })
  const wanted = readCompletionRequest({ prompt })
  await throwsFlrcError(() => engine.generate(wanted, AbortSignal.abort()), { code: 'E_ABORTED' })
  await engine.close()
})

const caching = suite('caches')

const cachedOf = ({ usage }: Answer) => usage.prompt_tokens_details.cached_tokens

/** The messages of the turn after an answer. */
const after = ({ choices: [{ message }] }: Answer, before: readonly object[]) => [
  ...before,
  { ...message },
  { role: 'user', content: 'And more.' },
]

caching('the next turn of a chat computes what is new, and says the same', async () => {
  // In f32 a prompt read in two parts rounds so little that no greedy choice is near enough to change.
  const exact = await Model.load(tinyModel, { dtype: 'f32' })
  await serving(
    async ({ url }) => {
      const body = { max_tokens: 16, temperature: 0 }
      const first = await ask(url + chats, { ...body, messages })
      assert.is(cachedOf(first), 0)
      const next = after(first, messages)
      const second = await ask(url + chats, { ...body, messages: next })
      assert.ok(cachedOf(second) >= first.usage.prompt_tokens, `${cachedOf(second)} cached`)
      assert.ok(cachedOf(second) < second.usage.prompt_tokens)
      const events = await eventsOf(
        await post(url + chats, {
          ...{ ...body, messages: next, cache_prompt: false },
          ...{ stream: true, stream_options: { include_usage: true } },
        }),
      )
      const alone = events.pop() as Answer
      assert.is(cachedOf(alone), 0)
      assert.is(alone.usage.prompt_tokens, second.usage.prompt_tokens)
      assert.is(events.map(({ choices: [choice] }) => choice.delta?.content ?? '').join(''), textOf(second))
      const again = await ask(url + chats, { ...body, messages: next })
      assert.is(cachedOf(again), again.usage.prompt_tokens - 1, 'all but the token whose logits are wanted')
      assert.is(textOf(again), textOf(second))
    },
    {},
    exact,
  )
  exact.dispose()
})

caching('a common beginning is copied, so that each conversation keeps its own', () =>
  serving(async ({ url }) => {
    const system = { role: 'system', content: 'Speak in verse, as the kings of old have done. '.repeat(4) }
    const ask8 = (messages: object[]) => ask(url + chats, { messages, max_tokens: 8, temperature: 0 })
    const one = [system, { role: 'user', content: 'Who was the king? '.repeat(8) }]
    const other = [system, { role: 'user', content: 'Tell me of the fish. '.repeat(8) }]
    const first = await ask8(one)
    const second = await ask8(other)
    const shared = cachedOf(second)
    assert.ok(shared > 40 && shared < second.usage.prompt_tokens - 16, `${shared} shared`)
    for (const [answer, before] of [
      [first, one],
      [second, other],
    ] as const) {
      const next = await ask8(after(answer, before))
      assert.ok(cachedOf(next) >= answer.usage.prompt_tokens, `${cachedOf(next)} cached`)
    }
  }),
)

caching('each turn has its schedule from the start', () =>
  serving(
    async ({ url }) => {
      const body = { max_tokens: 8, temperature: 0, schedule: 'step:.8:.6:4' }
      const first = await ask(url + chats, { ...body, messages })
      const second = await ask(url + chats, { ...body, messages: after(first, messages) })
      assert.ok(cachedOf(second) > 0)
      assert.equal([first.flrc.levels, second.flrc.levels], [Array(2).fill(4), Array(2).fill(4)])
    },
    {},
    small,
  ),
)

caching('what a low level computed serves requests of the same schedule, and no other', () =>
  serving(
    async ({ url }) => {
      const schedule = 'step:.8:.6:4'
      const tokens = [...small.tokenizer.encode(prompt.repeat(2))]
      const greedy = { temperature: 0, schedule }
      const { tokenIds } = await complete(small.generate(tokens, { maxTokens: 24, schedule }))
      const next = [...tokens, ...tokenIds, ...small.tokenizer.encode(' said')]
      await ask(url + completions, { ...greedy, prompt: tokens, max_tokens: 24 })
      const full = { ...greedy, prompt: next, max_tokens: 8, schedule: 'full' }
      const other = await ask(url + completions, full)
      // Level 0 has read the prompt and three tokens more.
      assert.is(cachedOf(other), tokens.length + 3)
      const again = await ask(url + completions, { ...full, schedule })
      assert.is(cachedOf(again), next.length - 1, 'level 0 has read it all by now')
      const low = await ask(url + completions, { ...greedy, prompt: tokens, max_tokens: 24 })
      assert.is(cachedOf(low), tokens.length - 1)
      const longer = [...next.slice(0, -1), 5, 6, 7]
      const like = await ask(url + completions, { ...greedy, prompt: longer, max_tokens: 1 })
      assert.ok(cachedOf(like) >= tokens.length + tokenIds.length - 1, `${cachedOf(like)} cached`)
    },
    {},
    small,
  ),
)

caching('an answer that was cut off can be gone on from', () =>
  serving(
    async ({ url }, requests) => {
      const left = new AbortController()
      const body = { prompt: prompt.repeat(4), temperature: 0, stream: true }
      const stream = await post(url + completions, body, { signal: left.signal })
      await stream.body?.getReader().read()
      left.abort()
      await until(() => requests.length === 1)
      assert.is(requests[0]?.status, 499)
      const next = await ask(url + completions, { prompt: prompt.repeat(5), max_tokens: 1 })
      assert.ok(cachedOf(next) >= (requests[0]?.promptTokens ?? 0) - 1, `${cachedOf(next)} cached`)
    },
    // The next one's turn comes when the cache is back.
    { parallel: 1, schedule: slow },
  ),
)

caching('none is kept where there is no memory for it', () =>
  serving(
    async ({ url }) => {
      for (let time = 0; time < 2; time++) {
        assert.is(cachedOf(await ask(url + completions, { prompt: prompt.repeat(4), max_tokens: 2 })), 0)
      }
    },
    { cacheBytes: 0 },
  ),
)

caching('the least recently used go first, and what another holds too', async () => {
  const batch = new DecodeBatch(model, { waitsFor: 'none' })
  const tokensOf = (first: number, length: number) => Array.from({ length }, (_, index) => first + index)
  const made = async (caches: PromptCaches, tokens: readonly number[]) => {
    const cached = await caches.take(tokens, 'full')
    const held = cached.tokens.length
    await cached.session.prefill(Int32Array.from(tokens.slice(held)), 0)
    for (const token of tokens.slice(held)) hold(cached, token, 0)
    caches.keep(cached)
    return held
  }
  const one = batch.open()
  await one.prefill(Int32Array.from(tokensOf(100, 64)), 0)
  one.rest()
  const caches = new PromptCaches(batch, 2.5 * one.bytes)
  one.release()
  assert.is(await made(caches, tokensOf(100, 64)), 0)
  assert.is(await made(caches, tokensOf(300, 64)), 0)
  assert.is(await made(caches, tokensOf(100, 64)), 63, 'used again')
  assert.is(await made(caches, tokensOf(500, 64)), 0)
  assert.is(await made(caches, tokensOf(100, 64)), 63)
  assert.is(await made(caches, tokensOf(300, 64)), 0, 'it was the oldest')
  assert.is(await made(caches, tokensOf(500, 64)), 0, 'which in its turn made another so')
  // Too little in common.
  assert.is(await made(caches, [...tokensOf(500, 15), ...tokensOf(700, 40)]), 0)
  caches.clear()
  assert.is(await made(caches, tokensOf(100, 64)), 0)
  caches.clear()
})

caching('a longer cache of lower levels takes no place of what level 0 computed', async () => {
  const caches = new PromptCaches(new DecodeBatch(model, { waitsFor: 'none' }), 1e9)
  const tokens = Array.from({ length: 64 }, (_, index) => 100 + index)
  const keep = async (length: number, schedule: string, exact: number) => {
    const cached = caches.empty(schedule)
    await cached.session.prefill(Int32Array.from(tokens.slice(0, length)), 0)
    for (const [index, token] of tokens.slice(0, length).entries()) hold(cached, token, index < exact ? 0 : 1)
    caches.keep(cached)
  }
  const taken = async (schedule: string) => {
    const cached = await caches.take(tokens, schedule)
    const { length } = cached.tokens
    assert.is(cached.schedule, schedule)
    caches.keep(cached)
    return length
  }
  await keep(40, 'low', 40)
  await keep(60, 'low', 20)
  assert.equal([await taken('full'), await taken('low'), await taken('full')], [40, 60, 40])
  await keep(50, 'low', 45)
  assert.equal([await taken('full'), await taken('low')], [45, 60])
  caches.clear()
})

caching('what cannot be gone on with stays as it was', async () => {
  const tokens = Array.from({ length: 64 }, (_, index) => 100 + index)
  const refuse = () => {
    throw new Error('no')
  }
  for (const [fails, wanted] of [
    ['rewind', [...tokens, 7]],
    ['fork', [...tokens.slice(0, 32), 7]],
  ] as const) {
    const caches = new PromptCaches(new DecodeBatch(model, { waitsFor: 'none' }), 1e9)
    const cached = await caches.take(tokens, 'full')
    await cached.session.prefill(Int32Array.from(tokens), 0)
    for (const token of tokens) hold(cached, token, 0)
    caches.keep(cached)
    const { [fails]: works } = cached.session
    Object.assign(cached.session, { [fails]: refuse })
    await caches.take(wanted, 'full').then(
      () => assert.unreachable(),
      (error: Error) => assert.is(error.message, 'no'),
    )
    Object.assign(cached.session, { [fails]: works })
    assert.equal(cached.tokens, tokens)
    const [one, other] = await Promise.all([caches.take(wanted, 'full'), caches.take(wanted, 'full')])
    assert.is(one.tokens.length, wanted.length - 1)
    assert.is(other.tokens.length, fails === 'fork' ? wanted.length - 1 : 0, 'it is given once, or copied')
    for (const { session } of [one, other]) session.release()
    caches.clear()
  }
})

caching('what lies idle holds its keys and values, and no working memory', async () => {
  const caches = new PromptCaches(new DecodeBatch(model, { waitsFor: 'none' }), 1e9)
  const tokens = Array.from({ length: 64 }, (_, index) => 100 + index)
  const cached = await caches.take(tokens, 'full')
  await cached.session.prefill(Int32Array.from(tokens), 0)
  cached.tokens.push(...tokens)
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }
  const before = await cached.session.decode(5, 0, sampling)
  cached.session.rewind(64)
  const working = cached.session.bytes
  caches.keep(cached)
  const { layers, kvHeads, headDim, vocabSize } = model.config
  // Keys and values in two bytes each, of a quarter more positions than were needed, and the logits.
  assert.is(cached.session.bytes, 2 * layers * kvHeads * headDim * 2 * 80 + vocabSize * 4)
  assert.ok(working > 2 * cached.session.bytes, `${working} bytes while it worked`)
  assert.equal(await cached.session.decode(5, 0, sampling), before)
  caches.clear()
})

const ending = suite('ending')

ending('closing ends what is being generated', async () => {
  const server = await serve(model, { port: 0, parallel: 2, schedule: slow })
  const url = server.url + completions
  const body = { prompt, temperature: 0 }
  const stream = await post(url, { ...body, stream: true })
  const [whole, waiting] = [post(url, body), post(url, body)]
  await setTimeout(20)
  const begin = performance.now()
  await Promise.all([server.close(), server.close()])
  assert.ok(performance.now() - begin < 900, 'answers end by themselves')
  const events = await eventsOf(stream)
  assert.equal([events.at(-1)?.error.code, events.at(-1)?.error.type], ['E_ABORTED', 'unavailable_error'])
  for (const response of await Promise.all([whole, waiting])) {
    assert.is(response.status, 503)
    assert.is(((await response.json()) as Answer).error.code, 'E_ABORTED')
  }
  await post(url, body).then(
    () => assert.unreachable('it listens no more'),
    () => undefined,
  )
  assert.is((await complete(model.generate(prompt, { maxTokens: 2 }))).tokenIds.length, 2)
})

ending('a model that is disposed of is no longer there for requests', async () => {
  const short = await Model.load(tinyModel)
  await serving(
    async ({ url }, requests) => {
      const stream = await post(url + completions, { prompt, temperature: 0, stream: true })
      short.dispose()
      assert.is((await eventsOf(stream)).at(-1)?.error.type, 'unavailable_error')
      assert.is((await ask(url + completions, { prompt }, 503)).error.code, 'E_DISPOSED')
      await until(() => requests.length === 2)
    },
    { schedule: slow },
    short,
  )
  await throwsFlrcError(() => serve(short), { code: 'E_DISPOSED' })
})

/** The files that a file of the library imports when it is loaded, and those that they do. */
function importedBy(file: string, found = new Set<string>()): Set<string> {
  if (found.has(file)) return found
  found.add(file)
  const source = readFileSync(file, 'utf8')
  for (const [, name = ''] of source.matchAll(/^(?:import|export) [^'"]*from '([^']+)'/gm)) {
    if (name.startsWith('.')) importedBy(path.join(path.dirname(file), name), found)
    else found.add(name)
  }
  return found
}

ending('who does not serve loads nothing of the server', () => {
  const dist = (file: string) => path.join(root, 'dist', file)
  const loaded = importedBy(dist('index.js'))
  assert.ok(loaded.has(dist('serve.js')) && loaded.size > 50)
  const ofServer = (name: string) =>
    name === 'hono' || name.startsWith('@hono/') || name.startsWith(dist('server'))
  assert.equal([...loaded].filter(ofServer), [])
  assert.ok([...importedBy(dist('server/start.js'))].filter(ofServer).length > 10)
})

for (const tests of [endpoints, refusals, together, caching, ending]) tests.run()
