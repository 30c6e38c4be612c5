import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { StopFilter } from '#lib/generate/stop.js'
import { runModule } from './support/child.js'

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

test.run()
