/**
 * Memory and time of loading and decoding: `npm run bench -- memory MODEL... [--dtype int8 --tokens 128 --json FILE]`.
 *
 * Each in processes of their own, in turn, --rounds times after one that fills the file cache: one that loads only the
 * tokenizer, and one that loads the model and decodes --tokens. Peaks are those of the resident set. What decoding takes
 * beyond weights, keys and values stands beside the tokenizer's process.
 */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { medianOf } from '#lib/statistics/median.js'
import type { DecodeMemoryRun, TokenizerRun } from './memory/run.js'
import { markdownTable } from './quality/tables.js'
import { outputOf } from './support/child.js'
import { spread } from './support/spread.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dtype: { type: 'string', multiple: true, default: ['bf16'] },
    tokens: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
if (positionals.length === 0) {
  console.log('skipped: give a model')
  process.exit()
}

interface MemoryRow {
  model: string
  dtype: string
  tokens: number
  tokenizer: TokenizerRun[]
  decode: DecodeMemoryRun[]
  /** From the start of the process to its end, tokens included. */
  seconds: number[]
}

const program = fileURLToPath(new URL('memory/run.js', import.meta.url))
const child = async (...args: string[]): Promise<unknown> =>
  JSON.parse(await outputOf(process.execPath, [program, ...args], 'the measured process'))

const rows: MemoryRow[] = positionals.flatMap((model) =>
  values.dtype.map((dtype) => ({
    ...{ model, dtype, tokens: Number(values.tokens) },
    ...{ tokenizer: [], decode: [], seconds: [] },
  })),
)
for (let round = 0; round <= Number(values.rounds); round++) {
  for (const row of rows) {
    const tokenizer = (await child('tokenizer', row.model)) as TokenizerRun
    const begin = performance.now()
    const decode = (await child('decode', row.model, row.dtype, values.tokens)) as DecodeMemoryRun
    if (round === 0) continue
    row.tokenizer.push(tokenizer)
    row.decode.push(decode)
    row.seconds.push((performance.now() - begin) / 1000)
  }
}
const named = rows.map((row) => ({ ...row, model: path.basename(row.model) }))
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(named, null, 2)}\n`)

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1)
console.log(
  markdownTable(
    ['model', 'dtype', 'load, s', 'weights, MB', 'cache', 'peak', 'tokenizer alone', 'beyond'],
    named.map(({ model, dtype, tokenizer, decode }) => {
      const median = (of: keyof DecodeMemoryRun) => medianOf(decode.map((run) => run[of]))
      const alone = medianOf(tokenizer.map((run) => run.peakBytes))
      const held = median('weightBytes') + median('cacheBytes')
      const load = decode.map((run) => run.loadSeconds)
      return [
        ...[model, dtype, spread(load, 3)],
        ...[median('weightBytes'), median('cacheBytes'), median('peakBytes'), alone].map(megabytes),
        megabytes(median('peakBytes') - held - alone),
      ]
    }),
  ),
)
