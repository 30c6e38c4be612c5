import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DecodeBatch } from '#lib/generate/batch.js'
import { complete, Model } from '#lib/index.js'
import { LoadedModel } from '#lib/model.js'
import { hold, PromptCaches } from '#lib/server/caches.js'
import { Session } from '#lib/session.js'
import { tinyModel } from './support/child.js'
import {
  type Answer,
  ask,
  chats,
  completions,
  eventsOf,
  messages,
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

caching('no session is left behind by what fails, nor by closing', async () => {
  const open = new Set<Session>()
  const { createSession } = LoadedModel.prototype
  const { fork, release } = Session.prototype
  LoadedModel.prototype.createSession = function (this: LoadedModel) {
    const session = createSession.call(this)
    open.add(session)
    return session
  }
  Session.prototype.fork = async function (this: Session, ...given) {
    const session = await fork.apply(this, given)
    open.add(session)
    return session
  }
  Session.prototype.release = function (this: Session) {
    open.delete(this)
    release.call(this)
  }
  try {
    await serving(async ({ url }) => {
      await ask(url + completions, { prompt: prompt.repeat(3), max_tokens: 2 })
      await ask(url + completions, { prompt: `${prompt}!`, max_tokens: 8, temperature: 0 })
      assert.ok(open.size > 0, 'caches wait')
    })
    assert.is(open.size, 0)
    const failing = (step: number) => {
      if (step === 3) throw new Error('no')
      return 1
    }
    await serving(
      async ({ url }, requests) => {
        const stream = await post(url + completions, { prompt, max_tokens: 8, stream: true })
        assert.ok((await eventsOf(stream)).at(-1)?.error)
        await until(() => requests.length === 1)
        assert.is(open.size, 0)
        assert.is(requests[0]?.error?.code, 'E_INTERNAL')
      },
      { schedule: failing },
    )
  } finally {
    LoadedModel.prototype.createSession = createSession
    Object.assign(Session.prototype, { fork, release })
  }
})

caching.run()
