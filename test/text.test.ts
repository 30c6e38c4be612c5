import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { firstTokens } from '#lib/text.js'
import type { Tokenizer } from '#lib/tokenizer.js'

const tokenizerOf = (encode: (text: string) => Int32Array) => ({ encode }) as unknown as Tokenizer

test('line ends of all systems are the same', () => {
  const characters = tokenizerOf((text) => Int32Array.from(text, (one) => one.charCodeAt(0)))
  assert.equal(firstTokens(characters, 'a\rb\r\nc', 9), firstTokens(characters, 'a\nb\nc', 9))
})

test('tokens are those of the whole text, also beside where it is cut', () => {
  // Line ends that follow each other are one token, of their number.
  const runs = tokenizerOf((text) => Int32Array.from(text.match(/\n+|[^\n]+/g) ?? [], ({ length }) => length))
  assert.equal([...firstTokens(runs, `${'x'.repeat(12)}\n\ny`, 2)], [12, 2])
})

test.run()
