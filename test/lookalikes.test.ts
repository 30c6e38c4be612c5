// Models that are Llama by another name, with what their configurations leave out, against PyTorch.
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { complete, Model } from '#lib/index.js'
import { distribution, expectedArrays, modelDirectory, normalised } from './support/fixture-model.js'
import { temporaryDirectory } from './support/paths.js'

const root = temporaryDirectory()

for (const architecture of ['cwm', 'internlm3', 'iquestcoder', 'ministral', 'seed_oss']) {
  test(`${architecture}: logits and greedy tokens`, async () => {
    const model = await Model.load(modelDirectory(join(root, architecture), architecture), { dtype: 'f32' })
    assert.is(model.config.architecture, architecture)
    const expected = await expectedArrays(architecture)
    const tokens = Int32Array.from((await expected('tokens')).values)
    const { values: logits } = await expected('logits')
    for (const at of [1, 13, 40]) {
      const begin = (at - 1) * model.config.vocabSize
      const wanted = normalised(logits.subarray(begin, begin + model.config.vocabSize))
      const got = await distribution(model, tokens.subarray(0, at))
      got.forEach((value, token) => {
        const off = Math.abs(value - (wanted[token] ?? Number.NaN))
        assert.ok(off < 2e-4, `position ${at}, token ${token}: off by ${off}`)
      })
    }
    const { values: greedy } = await expected('greedy')
    const written = await complete(model.generate(tokens, { maxTokens: greedy.length, temperature: 0 }))
    assert.equal(written.tokenIds, Array.from(greedy))
    model.dispose()
  })
}

test.run()
