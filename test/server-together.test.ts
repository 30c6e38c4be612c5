import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { complete, Model, serve } from '#lib/index.js'
import { serverApp } from '#lib/server/app.js'
import { Engine } from '#lib/server/engine.js'
import type { RequestFailure } from '#lib/server/failure.js'
import { readCompletionRequest } from '#lib/server/requests.js'
import { Turns } from '#lib/server/turns.js'
import { Session } from '#lib/session.js'
import { root, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import {
  type Answer,
  ask,
  completions,
  eventsOf,
  model,
  post,
  prompt,
  serving,
  slow,
  smallModel,
  textOf,
  until,
} from './support/serving.js'

const small = await smallModel()

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

/** Completions without a network between: how they are asked for, and what has been generated for them. */
function askedOf(engine: Engine, stallMs: number, cut: () => void) {
  const app = serverApp(engine, { host: '127.0.0.1', apiKey: undefined, name: 'tiny', stallMs })
  return (body: object) => {
    const record = { promptTokens: 0, completionTokens: 0 }
    const context = { url: 'http://127.0.0.1:80', record, chunked: true, cut }
    const headers = { 'content-type': 'application/json', host: 'localhost' }
    const init = { method: 'POST', body: JSON.stringify({ prompt, temperature: 0, ...body }), headers }
    return { record, response: Promise.resolve(app.request(completions, init, context)) }
  }
}

together('a reader that stalls is waited for a while, and holds up no other', async () => {
  const engine = new Engine(model, { parallel: 2, queue: 0, cacheBytes: 0, schedule: undefined })
  let cuts = 0
  const asked = askedOf(engine, 2000, () => {
    cuts++
  })
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

together('a reader that keeps reading is not cut off', async () => {
  const stallMs = 500
  const engine = new Engine(model, { parallel: 1, queue: 0, cacheBytes: 0, schedule: undefined })
  const asked = askedOf(engine, stallMs, () => assert.unreachable('it reads on'))
  const { response } = asked({ max_tokens: 8, stream: true })
  const reader = (await response).body?.getReader()
  while (!(await reader?.read())?.done) await setTimeout(5)
  await setTimeout(stallMs + 100)
  await engine.close()
})

together('whoever leaves the queue leaves its turn to others', async () => {
  const turns = new Turns(1, 1)
  const { signal } = new AbortController()
  const leave = await turns.take(signal)
  const gone = new AbortController()
  const waiting = turns.take(gone.signal)
  gone.abort()
  await throwsFlrcError(() => waiting, { code: 'E_ABORTED' })
  leave()
  ;(await turns.take(signal))()
})

together('whoever has left before it begins has no generation', async () => {
  const engine = new Engine(model, { parallel: 1, queue: 0, cacheBytes: 0, schedule: undefined })
  const wanted = readCompletionRequest({ prompt })
  await throwsFlrcError(() => engine.generate(wanted, AbortSignal.abort()), { code: 'E_ABORTED' })
  await engine.close()
  const closed = () => engine.generate(wanted, new AbortController().signal)
  assert.throws(closed, (error: RequestFailure) => error.status === 503)
})

const ending = suite('ending')

ending('closing ends what is being generated', async () => {
  const server = await serve(model, { port: 0, parallel: 2, schedule: slow })
  const url = server.url + completions
  const body = { prompt, temperature: 0 }
  const stream = await post(url, { ...body, stream: true })
  const [whole, waiting] = [post(url, body), post(url, body)]
  const waitingStream = post(url, { ...body, stream: true })
  // All must have come in, and answers of 500 tokens take longer.
  await setTimeout(200)
  const begin = performance.now()
  await Promise.all([server.close(), server.close()])
  assert.ok(performance.now() - begin < 900, 'answers end by themselves')
  const events = await eventsOf(stream)
  assert.equal([events.at(-1)?.error.code, events.at(-1)?.error.type], ['E_ABORTED', 'unavailable_error'])
  for (const response of await Promise.all([whole, waiting, waitingStream])) {
    assert.is(response.status, 503)
    assert.is(((await response.json()) as Answer).error.code, 'E_ABORTED')
  }
  await post(url, body).then(
    () => assert.unreachable('it listens no more'),
    () => undefined,
  )
  assert.is((await complete(model.generate(prompt, { maxTokens: 2 }))).tokenIds.length, 2)
})

ending('closing waits for no request that is not whole', async () => {
  const server = await serve(model, { port: 0 })
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
  const closed = once(socket, 'close')
  socket.on('error', () => undefined)
  const head = 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json'
  socket.write(`${head}\r\nContent-Length: 10\r\n\r\n{`)
  await setTimeout(50)
  const begin = performance.now()
  await server.close()
  await closed
  assert.ok(performance.now() - begin < 5000)
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

for (const tests of [together, ending]) tests.run()
