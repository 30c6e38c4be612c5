import { readFile } from 'node:fs/promises'
import { compress, evaluate, Model } from 'flrc'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Bench } from '../bench/quality/make.js'
import { chosenSpecs, type LowRankSpec, type RowSpec, rowKey } from '../bench/quality/rows.js'
import { makeRows } from '../bench/quality/run.js'
import { RowStore } from '../bench/quality/store.js'
import { repository } from './support/paths.js'

const read = (name: string) => readFile(repository('models', 'tiny', name), 'utf8')

test('rows can be chosen by parts of their keys', () => {
  const specs: RowSpec[] = (['f32', 'bf16', 'int8'] as const).map((dtype) => ({
    model: { kind: 'dense', dtype },
    measures: ['perplexity'],
  }))
  const keys = (texts: string[]) => chosenSpecs(specs, texts).map(({ model }) => rowKey(model))
  assert.equal(keys(['int8', 'f32']), ['dense/f32', 'dense/int8'])
  assert.equal(keys(['dense']), keys([]))
  assert.throws(
    () => keys(['f32', 'f64']),
    (error: { code?: string; message: string }) => error.code === 'E_USAGE' && error.message.includes('f64'),
  )
})

async function asThePackageDrops({ source, inputs, numbers }: Bench): Promise<number> {
  using dense = await Model.load(source, { dtype: 'bf16' })
  const { calibration } = inputs
  const { samples, seqLen, windows } = numbers
  using small = await compress(dense, {
    ...{ keep: 0.5, dropChannels: 'auto', samples, seqLen, calibration: [calibration] },
    shrinkage: { inputs: 0, gradients: 0 },
  })
  return (await evaluate.perplexity(small, inputs.text, { seqLen, windows })).perplexity
}

test('rows are made once, each with what it lacks, and one that fails stops no other', async () => {
  const bench: Bench = {
    source: repository('models', 'tiny'),
    dtype: 'bf16',
    inputs: {
      calibration: await read('calibration.txt'),
      text: await read('heldout.txt'),
      choices: undefined,
      dialogues: undefined,
      summaries: undefined,
      transfer: [{ dialogue: (await read('heldout.txt')).slice(-4000) }],
    },
    numbers: { samples: 2, seqLen: 64, windows: 2, searchWindows: 1 },
    limits: {},
    signal: new AbortController().signal,
  }
  const lowRank: LowRankSpec = {
    kind: 'low-rank',
    calibration: { source: 'text', whitening: 'two-sided', labels: 'model' },
    method: 'curve',
    storage: 'pivoted',
    dtype: 'bf16',
    keep: 0.8,
  }
  const specs: RowSpec[] = [
    { model: { kind: 'rounded', blockBits: 2 }, measures: ['perplexity'] },
    { model: { kind: 'rounded' }, measures: ['perplexity'] },
    { model: { kind: 'dense', dtype: 'bf16' }, measures: ['perplexity'] },
    { model: { ...lowRank, keep: 0.001 }, measures: ['perplexity'] },
    { model: { ...lowRank, levels: [0.8, 0.6] }, measures: ['perplexity'] },
    { model: lowRank, measures: ['perplexity'] },
    { model: { ...lowRank, keep: 1, dtype: 'int4' }, measures: ['perplexity'] },
    { model: { ...lowRank, keep: 0.5, drops: true }, measures: ['perplexity'] },
    { model: { ...lowRank, keep: 0.5, dtype: 'int8', drops: true }, measures: ['perplexity'] },
  ]
  const store = await RowStore.open(undefined, {}, false)
  const failures = await makeRows(specs, bench, store, () => {})
  assert.is(failures.length, 1)
  assert.match(failures[0]?.key ?? '', '0.001')
  assert.match(failures[0]?.reason ?? '', 'E_USAGE')

  const rowOf = (spec: RowSpec['model']) => store.get(rowKey(spec))
  const [two, embedding, dense, , falling, one, calibrated, dropped] = specs.map(({ model }) => rowOf(model))
  assert.ok(two?.perplexity && embedding?.perplexity && dense?.perplexity && one?.perplexity)
  assert.ok(two.perplexity > dense.perplexity, 'two bits lose something')
  assert.ok(two.storedBytes < dense.storedBytes / 3)
  assert.ok(Math.abs(embedding.perplexity / dense.perplexity - 1) < 0.01, 'an int8 embedding loses little')
  assert.is(embedding.equalBytes, dense.equalBytes)
  assert.ok(one.keep <= 0.8 && one.keep > 0.79 && one.equalBytes < dense.equalBytes)
  assert.ok(one.seconds && one.seconds.calibrate > 0)
  assert.is(calibrated?.keep, 1, 'everything stays dense')
  assert.ok(
    calibrated && calibrated.equalBytes < dense.equalBytes / 2 && calibrated.equalBytes > two.equalBytes,
  )
  assert.ok(dropped?.perplexity && dropped.keep <= 0.5 && dropped.keep > 0.49, `${dropped?.keep}`)
  const narrow = rowOf({ ...lowRank, keep: 0.5, dtype: 'int8', drops: true })
  assert.ok(narrow && narrow.keep === dropped.keep && narrow.storedBytes < dropped.storedBytes)
  assert.is(dropped.perplexity, await asThePackageDrops(bench), 'one narrowed model serves all types')
  assert.is(falling?.levels?.length, 2)
  assert.is(falling?.levels?.[0]?.perplexity, falling?.perplexity)

  const more: RowSpec[] = [
    ...specs.filter(({ model }) => rowOf(model) !== undefined),
    { model: lowRank, measures: ['perplexity', 'transfer'] },
  ]
  const lines: string[] = []
  assert.equal(await makeRows(more, bench, store, (line) => lines.push(line)), [])
  assert.is(lines.filter((line) => !line.startsWith('calibrated')).length, 1, lines.join('\n'))
  const again = rowOf(lowRank)
  assert.is(again?.perplexity, one.perplexity)
  assert.ok((again?.transfer ?? 0) > 1)
})

test.run()
