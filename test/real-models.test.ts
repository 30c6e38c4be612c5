import { existsSync, readFileSync } from 'node:fs'
import { evaluate, Model } from 'flrc'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { fixture, repository, shared, smollm2Gguf } from './support/paths.js'

interface TinyFixture {
  perplexity: { perplexity: number; seqLen: number }
  greedy: { prompt: string; ids: number[] }
}

async function greedyIds(model: Model, prompt: string, maxTokens: number): Promise<number[]> {
  const ids: number[] = []
  for await (const piece of model.generate(prompt, { maxTokens })) ids.push(piece.tokenId)
  return ids
}

test('models/tiny: PyTorch’s perplexity and greedy tokens', async () => {
  const expected = JSON.parse(readFileSync(fixture('tiny-tokens.json'), 'utf8')) as TinyFixture
  const model = await Model.load(repository('models', 'tiny'), { dtype: 'f32' })
  const text = readFileSync(repository('models', 'tiny', 'heldout.txt'), 'utf8')
  const { perplexity, seqLen } = await evaluate.perplexity(model, text, { seqLen: 256 })
  assert.is(seqLen, expected.perplexity.seqLen)
  assert.ok(Math.abs(perplexity / expected.perplexity.perplexity - 1) < 1e-3, String(perplexity))
  assert.equal(await greedyIds(model, expected.greedy.prompt, expected.greedy.ids.length), expected.greedy.ids)
  model.dispose()
})

const wikitext = shared('data', 'wikitext-2', 'wiki.test.raw')
if (existsSync(smollm2Gguf) && existsSync(wikitext)) {
  const text = readFileSync(wikitext, 'utf8')
  const cases = [
    ['f32', 0.001],
    ['bf16', 0.005],
  ] as const
  for (const [dtype, tolerance] of cases) {
    test(`SmolLM2 in ${dtype}: PyTorch’s perplexity of WikiText, and Paris`, async () => {
      const model = await Model.load(smollm2Gguf, { dtype })
      const result = await evaluate.perplexity(model, text, { seqLen: 512, windows: 24 })
      assert.is(result.tokens, 24 * 511)
      assert.ok(Math.abs(result.perplexity / 32.325 - 1) < tolerance, String(result.perplexity))
      const pieces: string[] = []
      for await (const piece of model.generate('The capital of France is', { maxTokens: 4 })) {
        pieces.push(piece.text)
      }
      assert.ok(pieces.join('').startsWith(' Paris.'), pieces.join(''))
      model.dispose()
    })
  }
} else {
  console.log('skipped: SmolLM2 in f32, missing ../shared/models or ../shared/data')
  console.log('skipped: SmolLM2 in bf16, missing ../shared/models or ../shared/data')
}

test.run()
