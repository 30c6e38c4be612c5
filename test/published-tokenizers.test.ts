import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Tokenizer } from '#lib/tokenizer.js'
import { fixture } from './support/paths.js'

interface Family {
  name: string
  vocabulary: 'bytes' | 'marks'
  tokenizer: Record<string, unknown> & { model: object }
  strings: { text: string; ids: number[]; decoded: string }[]
}
const { vocabularies, families }: { vocabularies: Record<string, object>; families: Family[] } = JSON.parse(
  readFileSync(fixture('published-tokens.json'), 'utf8'),
)

test('there are layouts of every family', () => assert.ok(families.length >= 11))

for (const { name, vocabulary, tokenizer: own, strings } of families) {
  test(`${name}: ids and texts of the Rust library in the layout of its published tokenizer`, () => {
    const model = { ...own.model, ...vocabularies[vocabulary] }
    const tokenizer = new Tokenizer({ tokenizer: { ...own, model }, config: {}, chatTemplate: undefined })
    assert.ok(strings.length > 30)
    for (const { text, ids, decoded } of strings) {
      assert.equal([...tokenizer.encode(text)], ids, JSON.stringify(text))
      assert.is(tokenizer.decode(ids, { skipSpecial: false }), decoded)
    }
  })
}

test.run()
