import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { stem } from '#lib/rouge/stem.js'
import { meanRouge, type RougeScores, rouge, rougeTokens } from '#lib/rouge.js'
import { repository } from './support/paths.js'

/** Written by scripts/rouge/make_fixtures.py with Google's rouge_score and NLTK. */
function fixture<T>(name: string): T {
  return JSON.parse(readFileSync(repository('test', 'fixtures', 'rouge', name), 'utf8')) as T
}

const measures = ['rouge1', 'rouge2', 'rougeL'] as const

test('every pair has rouge_score’s figures', () => {
  const pairs = fixture<({ reference: string; text: string } & RougeScores)[]>('pairs.json')
  assert.ok(pairs.length > 300)
  for (const { reference, text, ...expected } of pairs) {
    const scores = rouge(reference, text)
    for (const measure of measures) {
      assert.ok(
        Math.abs(scores[measure] - expected[measure]) < 1e-9,
        `${measure} of ${JSON.stringify(text)} against ${JSON.stringify(reference)}: ${scores[measure]}`,
      )
    }
  }
})

test('every word has NLTK’s stem', () => {
  const stems = Object.entries(fixture<Record<string, string>>('stems.json'))
  assert.ok(stems.length > 5000)
  for (const [word, expected] of stems) assert.is(stem(word), expected, word)
})

test('short words stay as they are', () => {
  assert.equal(rougeTokens('His TIES: was, dogs'), ['his', 'tie', 'was', 'dog'])
})

test('a score is the mean over its references', () => {
  assert.equal(meanRouge(['a b', 'c d'], 'a b'), { rouge1: 0.5, rouge2: 0.5, rougeL: 0.5 })
  assert.equal(meanRouge([], 'a b'), { rouge1: 0, rouge2: 0, rougeL: 0 })
})

test.run()
