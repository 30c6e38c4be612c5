// Models that are Llama by another name, with what their configurations leave out, against PyTorch.
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { complete, Model } from '#lib/index.js'
import { assertLogits, expectedArrays, modelDirectory } from './support/fixture-model.js'
import { temporaryDirectory } from './support/paths.js'

const root = temporaryDirectory()

for (const architecture of ['cwm', 'internlm3', 'iquestcoder', 'ministral', 'ministral3', 'seed_oss']) {
  test(`${architecture}: logits and greedy tokens`, async () => {
    const model = await Model.load(modelDirectory(join(root, architecture), architecture), { dtype: 'f32' })
    assert.is(model.config.architecture, architecture)
    const expected = await expectedArrays(architecture)
    const tokens = Int32Array.from((await expected('tokens')).values)
    await assertLogits(model, architecture, [
      [0, 1],
      [0, 13],
      [0, 40],
    ])
    const { values: greedy } = await expected('greedy')
    const written = await complete(model.generate(tokens, { maxTokens: greedy.length, temperature: 0 }))
    assert.equal(written.tokenIds, Array.from(greedy))
    model.dispose()
  })
}

test.run()
