import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Model, type ServeOptions, serve } from '#lib/index.js'
import { isLoopback } from '#lib/server/guard.js'
import { inTemporaryDirectory } from './support/checkpoint.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import {
  type Answer,
  ask,
  chats,
  completions,
  messages,
  model,
  post,
  prompt,
  serving,
  until,
} from './support/serving.js'

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
      [chats, 'reasoning_effort', { reasoning_effort: 'low' }],
      [chats, 'messages.0.parsed', { messages: [{ role: 'assistant', content: '', parsed: {} }] }],
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
      [completions, 'prompt', { prompt: [] }],
      [completions, 'prompt', { prompt: [[]] }],
      [completions, 'max_completion_tokens', { max_completion_tokens: 5 }],
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
      // In words of our own, not in those of the library that checks.
      assert.not.match(error.message, /expected|received/i)
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
    const absent = {
      reasoning_effort: null,
      verbosity: null,
      web_search_options: null,
      parallel_tool_calls: null,
    }
    // As the messages that the official client makes of a stream are handed back.
    const back = { role: 'assistant', content: 'So.', name: null, refusal: null, parsed: null, tool_calls: [] }
    const last = { role: 'user', content: 'And?' }
    await ask(url + chats, { messages: [...messages, back, last], max_tokens: 1, ...absent })
    const missing = await ask(url + completions, {}, 400)
    assert.is(missing.error.param, 'prompt')
    const outside = await ask(url + completions, { prompt: [99999], max_tokens: 1 }, 400)
    assert.equal([outside.error.code, outside.error.param], ['E_USAGE', 'prompt'])
    // Of this process, whatever else keeps the machine busy.
    const begin = process.cpuUsage()
    for (const text of ['word '.repeat(600), 'word '.repeat(200_000)]) {
      const long = await ask(url + completions, { prompt: text }, 400)
      assert.equal([long.error.code, long.error.param], ['E_CONTEXT', 'prompt'])
      assert.match(long.error.message, /^more than 512 prompt tokens leave no room in the context of 512/)
    }
    const { user } = process.cpuUsage(begin)
    assert.ok(user < 3_000_000, 'a text that cannot fit is not encoded whole')
    const full = await ask(url + completions, { prompt: Array(512).fill(5) }, 400)
    assert.match(full.error.message, /^512 prompt tokens leave no room in the context of 512/)
    assert.is(full.error.param, 'prompt')
    const talk = [{ role: 'user', content: 'word '.repeat(600) }]
    const longTalk = await ask(url + chats, { messages: talk }, 400)
    assert.equal([longTalk.error.code, longTalk.error.param], ['E_CONTEXT', 'messages'])
    for (const schedule of ['foo:1', 'calibrated']) {
      const { error } = await ask(url + chats, { messages, schedule }, 400)
      assert.equal([error.code, error.param], ['E_USAGE', 'schedule'])
    }
  }),
)

refusals('what is said of a model names it, and no path of the server', () =>
  inTemporaryDirectory(async (directory) => {
    const copy = path.join(directory, 'tiny')
    cpSync(tinyModel, copy, { recursive: true })
    const file = path.join(copy, 'tokenizer_config.json')
    const config = JSON.parse(readFileSync(file, 'utf8')) as object
    writeFileSync(file, JSON.stringify({ ...config, chat_template: "{{ raise_exception('no verse') }}" }))
    const strict = await Model.load(copy)
    await serving(
      async ({ url }) => {
        const refused = await ask(url + chats, { messages }, 400)
        assert.equal([refused.error.code, refused.error.param], ['E_CHAT_TEMPLATE', 'messages'])
        const asked = { prompt, stream: true, schedule: 'calibrated' }
        const unknown = await ask(url + completions, asked, 400)
        assert.is(unknown.error.param, 'schedule')
        for (const { error } of [refused, unknown]) {
          assert.match(error.message, /^tiny: the (chat template|model)/)
          assert.not.match(error.message, directory)
        }
      },
      {},
      strict,
    )
    strict.dispose()
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
    const latin1 = { body: Buffer.from('{"prompt": "na\xefve", "max_tokens": 1}', 'latin1') }
    const broken = await post(url + completions, '', latin1)
    assert.is(broken.status, 400)
    assert.match(((await broken.json()) as Answer).error.message, /UTF-8/)
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
  // However the address was written, and whatever name it came of.
  for (const host of ['127.1', 'localhost']) {
    await serving(
      async ({ url }) => {
        assert.equal([await statusFor(url, 'example.com'), await statusFor(url, host)], [403, 200])
      },
      { host },
    )
  }
  for (const [address, local] of [
    ['127.9.9.9', true],
    ['[::1]', true],
    ['[::ffff:127.0.0.1]', true],
    ['0.0.0.0', false],
    ['[::]', false],
    ['[::ffff:192.168.0.7]', false],
    ['192.168.0.7', false],
  ] as const) {
    assert.is(isLoopback(`http://${address}:80`), local, address)
  }
})

refusals('options that cannot be used, and an address that is taken', () =>
  serving(async ({ url }) => {
    const port = Number(new URL(url).port)
    await throwsFlrcError(() => serve(model, { port }), { code: 'E_IO', message: /127\.0\.0\.1, port \d+: / })
    await throwsFlrcError(() => serve(model, { port: 0, host: '192.0.2.1' }), { code: 'E_IO' })
    const wrong: ServeOptions[] = [
      ...[{ port: 65536 }, { port: -1 }, { parallel: 0 }, { queue: -1 }, { cacheBytes: -1 }],
      ...[{ host: '' }, { apiKey: '' }, { schedule: 'half' }],
      ...([{ host: 5 }, { apiKey: 5 }, { onRequest: 'log' }] as unknown as ServeOptions[]),
    ]
    for (const options of wrong) {
      await throwsFlrcError(() => serve(model, { port: 0, ...options }), { code: 'E_USAGE' })
    }
    // What no client could send; the key itself is not shown.
    for (const apiKey of ['hush\r', 'hush\n', 'hu sh', 'h\xfcsh']) {
      await throwsFlrcError(() => serve(model, { port: 0, apiKey }), {
        ...{ code: 'E_USAGE', message: /^apiKey (?!.*(hu|sh\b))/s },
      })
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

refusals.run()
