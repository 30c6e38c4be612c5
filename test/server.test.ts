import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { complete, type Piece } from '#lib/index.js'
import { chatForm } from '#lib/server/forms.js'
import {
  type Answer,
  ask,
  chats,
  completions,
  eventsOf,
  exchange,
  messages,
  model,
  post,
  prompt,
  type SaidToken,
  serving,
  smallModel,
  textOf,
} from './support/serving.js'

const small = await smallModel()

const endpoints = suite('endpoints')

/** In seconds since 1970. */
const isNow = (seconds: number) => Math.abs(seconds - Date.now() / 1000) < 60

endpoints('health, and the model that is served', () =>
  serving(async ({ url, model: name }) => {
    assert.is(name, 'tiny')
    assert.equal(await (await fetch(`${url}/health`)).json(), { status: 'ok' })
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as {
      data: [{ id: string; created: number; flrc: { contextLength: number } }]
    }
    assert.is(data[0].id, 'tiny')
    assert.ok(isNow(data[0].created))
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
      assert.ok(isNow(answer.created))
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
    const both = { messages, max_tokens: 4, max_completion_tokens: 2 }
    assert.is((await ask(url + chats, both)).usage.completion_tokens, 2)
    const full = Array(model.config.contextLength).fill(5)
    await ask(url + completions, { prompt: full, max_tokens: 0 })
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

endpoints('what leaves the host out, as HTTP/1.0 may, is answered', () =>
  serving(async ({ url }) => {
    const said = await exchange(url, 'GET /health HTTP/1.0\r\n\r\n')
    assert.match(said, /^HTTP\/1\.\d 200.*\{"status":"ok"\}$/s)
  }),
)

endpoints('half a character has no bytes of its own', () => {
  const piece = { text: '\ufffd', tokenId: 5, level: 0, activeBudget: 1, logprob: -1 }
  const { content } = chatForm.logprobs([piece, { ...piece, text: 'h\xe9' }], 0) as { content: SaidToken[] }
  assert.equal(
    content.map(({ bytes }) => bytes),
    [null, [0x68, 0xc3, 0xa9]],
  )
})

endpoints.run()
