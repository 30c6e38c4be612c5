import { getEventListeners } from 'node:events'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { StopFilter } from '#lib/generate/stop.js'
import { GatheredPieces } from '#lib/generate.js'
import { complete, compress, Model, type Schedule } from '#lib/index.js'
import { runModule, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'

const model = await Model.load(tinyModel)
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }

/** Feeds texts token by token; the result is each token's final text, in order. */
function filtered(stops: string[], texts: string[]): { texts: string[]; stopped: boolean; late: number } {
  const filter = new StopFilter<number>(stops)
  const out: { item: number; text: string }[] = []
  let late = 0
  for (const [index, text] of texts.entries()) {
    const released = filter.push(index, text)
    if (released.at(-1)?.item !== index) late++
    out.push(...released)
    if (filter.stopped) break
  }
  if (!filter.stopped) out.push(...filter.finish())
  assert.equal(
    out.map(({ item }) => item),
    out.map((_, index) => index),
    'every token once and in order',
  )
  return { texts: out.map(({ text }) => text), stopped: filter.stopped, late }
}

test('without stop strings every token comes out at once', () => {
  assert.equal(filtered([], ['a', '', 'bc']), { texts: ['a', '', 'bc'], stopped: false, late: 0 })
})

test('a stop string over three tokens cuts the text before it and keeps the tokens', () => {
  assert.equal(filtered(['STOP'], ['hello S', 'TO', 'P world', 'never']), {
    texts: ['hello ', '', ''],
    stopped: true,
    late: 2,
  })
})

test('a false start is let go with its own text', () => {
  assert.equal(filtered(['STOP'], ['a S', 'T', 'x', 'b']), {
    texts: ['a S', 'T', 'x', 'b'],
    stopped: false,
    late: 2,
  })
})

test('the earliest of several stop strings counts, and one inside another works', () => {
  assert.equal(filtered(['yy', 'abc', 'b'], ['xabcyy']).texts, ['x'])
  assert.equal(filtered(['aab'], ['a', 'a', 'a', 'b']), { texts: ['a', '', '', ''], stopped: true, late: 3 })
})

test('what is held at the end comes out', () => {
  assert.equal(filtered(['END!'], ['the E', 'ND']), { texts: ['the E', 'ND'], stopped: false, late: 2 })
})

test('prefill gives the same bits at any number of threads, also by kernels that round by the shape of a product', async () => {
  const { code, stderr } = await runModule(
    `
    import assert from 'node:assert/strict'
    import { Model } from '#lib/index.js'
    const tokens = Int32Array.from({ length: 40 }, (_, i) => 3 + 7 * i)
    const logprobs = async (threads) => {
      const model = await Model.load('models/tiny', { dtype: 'f32', threads })
      const session = model.createSession()
      return [await session.logprobs(tokens.subarray(0, 17), 0, 1), await session.logprobs(tokens.subarray(17), 0)]
    }
    const alone = await logprobs(1)
    for (const threads of [2, 3, 4]) assert.deepEqual(await logprobs(threads), alone, 'threads ' + threads)
  `,
    { env: { ...process.env, OPENBLAS_CORETYPE: 'Haswell' } },
  )
  assert.is(code, 0, stderr)
})

test('an item that is open to more text waits for it, and a stop string may end in that', () => {
  const texts = (held: { item: number; text: string }[]) => held.map(({ item, text }) => [item, text])
  const filter = new StopFilter<number>(['x\ufffd'])
  assert.equal(texts(filter.push(0, 'a', true)), [])
  assert.equal(texts(filter.push(1, '', true)), [[0, 'a']])
  assert.equal(texts(filter.push(2, '\u00e9')), [
    [1, ''],
    [2, '\u00e9'],
  ])
  assert.equal(texts(filter.push(3, 'bx', true)), [])
  assert.equal(texts(filter.finish('\ufffd')), [[3, 'b']])
  assert.ok(filter.stopped)
})

test('a schedule hears the level of the step before', async () => {
  const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
  const small = await compress(model, {
    ...{ keep: 0.8, levels: [0.8, 0.5], calibration, samples: 2, seqLen: 64, method: 'uniform' },
  })
  const heard: number[] = []
  const schedule: Schedule = (step, { level }) => {
    heard.push(level)
    return step % 3 === 0 ? 0.8 : 0.5
  }
  const { levels } = await complete(small.generate('Once upon a time', { maxTokens: 8, schedule }))
  assert.equal(heard, levels.slice(0, -1))
  small.dispose()
})

test('a prompt and its tokens may fill the context', async () => {
  const prompt = Array.from({ length: model.config.contextLength - 4 }, () => 5)
  assert.is((await complete(model.generate(prompt, { maxTokens: 4 }))).tokenIds.length, 4)
  await throwsFlrcError(() => complete(model.generate(prompt, { maxTokens: 5 })), { code: 'E_CONTEXT' })
})

test('speed is of the tokens after the first, which has its own time in milliseconds', () => {
  const { now } = performance
  let clock = 1000
  performance.now = () => clock
  try {
    const gathered = new GatheredPieces()
    for (const passed of [50, 20, 20]) {
      clock += passed
      gathered.add({ text: 'x', tokenId: 5, level: 0, activeBudget: 1, logprob: 0 })
    }
    clock += 10
    const end = { finishReason: 'length', promptTokens: 1, drafted: 0, accepted: 0 } as const
    const { timeToFirstTokenMs, tokensPerSecond } = gathered.completion(end)
    assert.equal([timeToFirstTokenMs, tokensPerSecond], [50, 2 / 0.05])
  } finally {
    performance.now = now
  }
})

test('a signal that outlives generations and calls keeps none of them', async () => {
  const { signal } = new AbortController()
  const listeners = () => getEventListeners(signal, 'abort').length
  await complete(model.generate('The king', { maxTokens: 3, signal }))
  const tooLong = Array.from({ length: 600 }, () => 5)
  await throwsFlrcError(() => complete(model.generate(tooLong, { maxTokens: 3, signal })), {
    code: 'E_CONTEXT',
  })
  assert.is(listeners(), 0)
  const session = model.createSession()
  await session.prefill(Int32Array.of(5, 6), 0, signal)
  await throwsFlrcError(() => session.decode(-1, 0, greedy, signal), { code: 'E_INTERNAL' })
  assert.is(listeners(), 0)
  session.release()
})

test.after(() => model.dispose())

test.run()
