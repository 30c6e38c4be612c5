import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type LlamaResults, llamaTables } from '../bench/llama/tables.js'

const results: LlamaResults = {
  ...{ machine: 'a machine', threads: 2, promptTokens: 32, tokens: 128, prefillTokens: 512 },
  bandwidth: [10e9, 40e9, 20e9],
  rows: [
    { engine: 'flrc', type: 'int8', bytes: 100e6, decode: [50, 200, 100], prefill: [1000, 1200, 1100] },
    { engine: 'llama.cpp', type: 'Q8_0', bytes: 104e6, decode: [40, 100, 100], prefill: [500, 1200, 2200] },
  ],
}

test('ratios and shares are those of the same round, not of the medians', () => {
  const tables = llamaTables(results)
  // 50 and 40 at 10 GB/s, 200 and 100 at 40 GB/s: the medians alone, 100 and 100, would say 1.00.
  assert.match(tables, '| llama.cpp Q8_0 | 1.25 (1.00 to 2.00) |')
  assert.match(tables, '| llama.cpp Q8_0 | 1.00 (0.50 to 2.00) |')
  assert.match(tables, '| flrc int8 | 100.0 | 100.0 (50.0 to 200.0) | 50% | 1100 (1000 to 1200) |')
})

test('the page says what machine, how long and how often', () => {
  assert.match(llamaTables(results), 'a machine, 2 threads, which read 20.0 (10.0 to 40.0) GB/s.')
  assert.match(llamaTables(results), 'Decoding 128 tokens after 32, prefill of 512; 3 rounds in turn')
})

test.run()
