import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { complete, Model, type Piece } from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'

// In f32 a prompt read at once rounds as little as one that was decoded.
const model = await Model.load(tinyModel, { threads: 2, dtype: 'f32' })
const prompt = 'Once upon a time there was a king who'

async function piecesOf(options: Parameters<typeof model.generate>[1]): Promise<Piece[]> {
  const pieces: Piece[] = []
  await complete(model.generate(prompt, { maxTokens: 12, ...options }), (piece) => pieces.push(piece))
  return pieces
}

test('each piece names the likeliest tokens, and is what it is without', async () => {
  const plain = await piecesOf({})
  const pieces = await piecesOf({ topLogprobs: 20 })
  assert.equal(
    pieces.map(({ topLogprobs: _, ...piece }) => piece),
    plain,
  )
  const tokens = Array.from(model.tokenizer.encode(prompt))
  for (const { tokenId, text, logprob, topLogprobs = [] } of pieces) {
    assert.is(topLogprobs.length, 20)
    assert.is(new Set(topLogprobs.map((one) => one.tokenId)).size, 20)
    const [first] = topLogprobs
    assert.equal([first?.tokenId, first?.logprob], [tokenId, logprob], 'greedy takes the likeliest')
    assert.ok(text === '' || first?.text === text)
    const values = topLogprobs.map((one) => one.logprob)
    assert.equal(
      values,
      [...values].sort((a, b) => b - a),
    )
    // What the session itself says of each, and of no other token more.
    const session = model.createSession()
    await session.prefill(Int32Array.from(tokens), 0)
    const all = await Promise.all(
      Array.from({ length: model.config.vocabSize }, async (_, token) => {
        if (token % 7 !== 0 && !topLogprobs.some((one) => one.tokenId === token)) return undefined
        const fork = await session.fork()
        const [value = 0] = await fork.logprobs(Int32Array.of(token), 0)
        fork.release()
        return value
      }),
    )
    session.release()
    for (const one of topLogprobs) {
      assert.ok(Math.abs((all[one.tokenId] ?? 0) - one.logprob) < 1e-3)
      assert.is(one.text, model.tokenizer.textOf(one.tokenId))
    }
    const least = values.at(-1) ?? 0
    const others = all.filter((_, token) => !topLogprobs.some((one) => one.tokenId === token))
    assert.ok(others.every((value) => value === undefined || value <= least + 1e-3))
    tokens.push(tokenId)
  }
})

test('they are those before filters, temperature and penalties', async () => {
  const [greedy] = await piecesOf({ topLogprobs: 5, maxTokens: 1 })
  const [drawn] = await piecesOf({ topLogprobs: 5, maxTokens: 1, temperature: 2, topK: 2, repeatPenalty: 2 })
  assert.equal(drawn?.topLogprobs, greedy?.topLogprobs)
})

test('numbers that there are not are refused', async () => {
  for (const topLogprobs of [-1, 1.5, 21, Number.NaN]) {
    await throwsFlrcError(() => piecesOf({ topLogprobs }), { code: 'E_USAGE', message: /topLogprobs/ })
  }
})

test.run()
