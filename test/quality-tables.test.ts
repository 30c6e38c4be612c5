import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { exportModel, FlrcError, Model } from 'flrc'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { perplexity } from '#lib/evaluate.js'
import { readOptions } from '../bench/quality/options.js'
import {
  countedBytes,
  groupedBytes,
  groupSize,
  roundDirectory,
  roundGroup,
  roundGroupInt8,
  toBf16,
} from '../bench/quality/rounded.js'
import {
  type LowRankSpec,
  mergeSpecs,
  missingMeasures,
  paretoFront,
  type Row,
  rowKey,
} from '../bench/quality/rows.js'
import { levelsBelow, type PlanOptions, planSection, sectionNames } from '../bench/quality/sections.js'
import { RowStore } from '../bench/quality/store.js'
import { formatPerplexity, markdownTable, renderSection } from '../bench/quality/tables.js'
import { repository } from './support/paths.js'

const tiny = repository('models', 'tiny')

const lowRank: LowRankSpec = {
  kind: 'low-rank',
  calibration: { source: 'text', whitening: 'two-sided', labels: 'model' },
  method: 'curve',
  storage: 'pivoted',
  dtype: 'bf16',
  keep: 0.8,
}

const options: PlanOptions = {
  keeps: [0.9, 0.6],
  dtype: 'bf16',
  choiceKeep: 0.6,
  dialogues: true,
  summaries: true,
  transfer: true,
  full: true,
  unknowns: true,
  quantisedSource: true,
}

const row = (model: Row['model'], rest: Partial<Row>): Row => ({
  ...{ key: rowKey(model), model, keep: 1, storedBytes: 1e6, equalBytes: 1e6 },
  ...rest,
})

async function inDirectory(run: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'flrc-test-'))
  try {
    await run(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (error instanceof FlrcError) return error.code
    throw error
  }
  return 'no error'
}

test('a group is rounded to evenly spaced values that hold its range and zero', () => {
  const group = Float32Array.of(-1, -0.4, 0, 0.6, 1.9, 2)
  roundGroup(group, 2)
  // Scale 1, zero point 1: the values are -1, 0, 1 and 2.
  assert.equal([...group], [-1, 0, 0, 1, 2, 2])
  const positive = Float32Array.of(3, 7)
  roundGroup(positive, 3)
  assert.equal([...positive], [3, 7], 'scale 1: the range begins at 0 though no weight does')
  const zeros = new Float32Array(4)
  roundGroup(zeros, 2)
  assert.equal([...zeros], [0, 0, 0, 0])
})

test('ties go to the even step, as the processor rounds', () => {
  const group = Float32Array.of(0, 0.5, 1.5, 2.5, 7)
  roundGroup(group, 3)
  assert.equal([...group], [0, 0, 2, 2, 7])
  assert.is(toBf16(1 + 2 ** -8), 1, 'a tie between two bf16 goes to the even one')
  assert.is(toBf16(1 + 3 * 2 ** -8), 1 + 2 ** -6)
  const eight = Float32Array.of(127, -0.5, -1.5, -127)
  roundGroupInt8(eight)
  assert.equal([...eight], [127, -0, -2, -127])
})

test('with four bits, rounding is the library’s int4, in perplexity and in bytes', () =>
  inDirectory(async (directory) => {
    const folder = join(directory, 'rounded')
    const dense = await Model.load(tiny, { dtype: 'f32' })
    await exportModel(dense, folder)
    dense.dispose()
    await roundDirectory(folder, 4)
    const rounded = await Model.load(folder, { dtype: 'f32' })
    const int4 = await Model.load(tiny, { dtype: 'int4' })
    const text = await readFile(repository('models', 'tiny', 'heldout.txt'), 'utf8')
    const measured = { seqLen: 128, windows: 2 }
    const ours = await perplexity(rounded, text, measured)
    const theirs = await perplexity(int4, text, measured)
    assert.ok(
      Math.abs(ours.perplexity / theirs.perplexity - 1) < 1e-5,
      `${ours.perplexity} beside ${theirs.perplexity}`,
    )
    assert.is(countedBytes(rounded.tensorEntries(false), rounded.config, 4), int4.storedBytes)
    rounded.dispose()
    int4.dispose()
  }))

test('bytes count packed weights, a scale and below eight bits a zero point a group', () => {
  assert.is(groupedBytes(2, groupSize, 8), 2 * (32 + 2))
  assert.is(groupedBytes(2, groupSize, 4), 2 * (16 + 3))
  assert.is(groupedBytes(1, 33, 3), Math.ceil((33 * 3) / 8) + 2 * 3)
  const model = { vocabSize: 10, hiddenSize: 32, tieEmbeddings: false }
  const entries = [
    { name: 'model.embed_tokens.weight', shape: [10, 32], byteLength: 1280 },
    { name: 'lm_head.weight', shape: [10, 32], byteLength: 1280 },
    { name: 'model.norm.weight', shape: [32], byteLength: 128 },
    { name: 'model.layers.0.mlp.up_proj.weight', shape: [4, 32], byteLength: 512 },
  ]
  assert.is(countedBytes(entries, model), 2 * 10 * 34 + 128 + 512)
  assert.is(countedBytes(entries, model, 2), 2 * 10 * 34 + 128 + 4 * (8 + 3))
  assert.is(countedBytes(entries, { ...model, tieEmbeddings: true }), 10 * 34 + 128 + 512)
})

test('the front holds what nothing beats in bytes and perplexity', () => {
  const points = [
    { equalBytes: 3, perplexity: 10 },
    { equalBytes: 2, perplexity: 10 },
    { equalBytes: 2, perplexity: 10 },
    { equalBytes: 1, perplexity: 12 },
    { equalBytes: 1, perplexity: 13 },
    { equalBytes: 0.5 },
  ]
  const front = paretoFront(points)
  assert.equal(
    points.map((point) => front.has(point)),
    [false, true, true, true, false, true],
    'equal points are both on it; a point that was not measured beats none',
  )
})

test('rows of several tables are one, with all their measures', () => {
  const merged = mergeSpecs([
    { model: lowRank, measures: ['perplexity'] },
    { model: { kind: 'dense', dtype: 'int8' }, measures: ['perplexity'] },
    { model: { ...lowRank, calibration: { ...lowRank.calibration } }, measures: ['perplexity', 'transfer'] },
  ])
  assert.equal(
    merged.map(({ measures }) => measures),
    [['perplexity', 'transfer'], ['perplexity']],
  )
  const different: Row['model'][] = [
    lowRank,
    { ...lowRank, levels: [0.8, 0.6] },
    { ...lowRank, storage: 'plain' },
    { ...lowRank, dtype: 'int4' },
    { ...lowRank, calibration: { ...lowRank.calibration, labels: 'data' } },
    { kind: 'rounded' },
    { kind: 'rounded', blockBits: 2 },
  ]
  assert.is(new Set(different.map(rowKey)).size, different.length)
})

test('every table plans distinct rows that can be made from what was given', () => {
  for (const name of sectionNames) {
    const specs = planSection(name, options)
    assert.is(mergeSpecs(specs).length, specs.length, `${name} has a row twice`)
    const bare = {
      ...options,
      choiceKeep: undefined,
      dialogues: false,
      summaries: false,
      transfer: false,
      full: false,
    }
    for (const { model, measures } of planSection(name, bare)) {
      assert.equal(measures, ['perplexity'])
      if (model.kind === 'low-rank') assert.not.ok(model.calibration.source.includes('dialogues'))
    }
  }
  const methods = planSection('methods', options)
  const withChoices = methods.filter(({ measures }) => measures.includes('choice'))
  assert.equal(
    withChoices,
    methods.filter(
      ({ model }) => model.kind !== 'low-rank' || (model.storage === 'pivoted' && model.keep === 0.6),
    ),
  )
  assert.equal(levelsBelow(0.9, 2), [0.9, 0.7])
  assert.equal(levelsBelow(0.9, 4), [0.9, 0.83, 0.77, 0.7])
  assert.is(levelsBelow(0.25, 2), undefined)
})

test('the store keeps rows as they come, and goes on from them', () =>
  inDirectory(async (directory) => {
    const file = join(directory, 'rows.json')
    const settings = { textSha256: 'aa', windows: 24 }
    const first = await RowStore.open(file, settings, false)
    const made = row(lowRank, { perplexity: 12, keep: 0.79 })
    await first.put(made)
    assert.equal(JSON.parse(await readFile(file, 'utf8')), { version: 1, settings, rows: [made] })

    const second = await RowStore.open(file, { ...settings, transfer: 'more.jsonl' }, true)
    assert.equal(second.get(made.key), made)
    const wanted = { model: lowRank, measures: ['perplexity', 'transfer'] as const }
    assert.equal(missingMeasures(wanted, second.get(made.key)), ['transfer'])
    await second.put({ ...made, transfer: 20 })
    const { settings: after, rows } = JSON.parse(await readFile(file, 'utf8'))
    assert.equal(after, { ...settings, transfer: 'more.jsonl' })
    assert.equal(rows, [{ ...made, transfer: 20 }])

    assert.is(await codeOf(RowStore.open(file, settings, false)), 'E_EXISTS')
    assert.is(await codeOf(RowStore.open(file, { ...settings, windows: 8 }, true)), 'E_USAGE')
    await writeFile(file, '{"rows": ')
    assert.is(await codeOf(RowStore.open(file, settings, true)), 'E_USAGE')
  }))

test('Markdown aligns figures to the right and keeps bars and brackets as they are', () => {
  assert.is(
    markdownTable(
      ['name', 'value'],
      [
        ['a|<b>', '1.5'],
        ['c', ''],
      ],
    ),
    '| name | value |\n| --- | ---: |\n| a\\|\\<b> | 1.5 |\n| c |  |',
  )
  assert.equal([32.333, 9999, 5.2e7, undefined].map(formatPerplexity), ['32.33', '9999.00', '5.2e7', ''])
})

test('the table of bytes is sorted, marks the front, and leaves the source out of it', () => {
  const rows = [
    row({ kind: 'dense', dtype: 'int4' }, { equalBytes: 2e7, perplexity: 40 }),
    row({ kind: 'source' }, { equalBytes: 1e7, perplexity: 32 }),
    row({ kind: 'dense', dtype: 'int8' }, { equalBytes: 4e7, perplexity: 32.5 }),
    row({ ...lowRank, dtype: 'int8' }, { equalBytes: 3e7, perplexity: 41 }),
  ]
  const text = renderSection('bytes', rows, { weights: 'Q4_1' })
  const lines = text.split('\n').filter((line) => line.startsWith('|'))
  assert.equal(lines, [
    '| model | MB | perplexity | on the front |',
    '| --- | ---: | ---: | --- |',
    '| dense int8 | 40.0 | 32.50 | yes |',
    '| keep 0.8, int8 factors | 30.0 | 41.00 |  |',
    '| dense int4 | 20.0 | 40.00 | yes |',
    '| dense, the source file | 10.0 | 32.00 |  |',
  ])
  assert.ok(text.includes('Q4_1'), 'the caption says what the source is')
})

test('the overview has a row a method and a column a keep and storage; levels have a line each', () => {
  const rows = [
    row({ kind: 'dense', dtype: 'bf16' }, { perplexity: 30 }),
    row(lowRank, { perplexity: 33 }),
    row({ ...lowRank, storage: 'plain' }, { perplexity: 35 }),
    row({ ...lowRank, dtype: 'int8' }, { perplexity: 34 }),
  ]
  const lines = renderSection('methods', rows, {}).split('\n')
  assert.ok(lines.includes('| method | whitening | plain 0.8 | pivoted 0.8 |'))
  assert.ok(lines.includes('| curve | two-sided, labels model | 35.00 | 33.00 |'))

  const falling = row({ ...lowRank, levels: [0.8, 0.6] }, { perplexity: 36, keep: 0.7999 })
  falling.levels = [
    { budget: 0.7999, perplexity: 36 },
    { budget: 0.5998, perplexity: 50 },
  ]
  const rounded = row({ ...lowRank, dtype: 'int4', keep: 1 }, { perplexity: 32, storedBytes: 20e6 })
  const levels = renderSection('levels', [rounded, falling], {}).split('\n')
  assert.ok(levels.includes('| curve | 0.8 | 2 | 1 | 0.6 | 0.5998 | 50.00 |  |'), levels.join('\n'))
  assert.ok(levels.includes('| dense int4, against the calibration |  |  |  |  |  | 32.00 | 20.0 |'))
})

test('rows with and without channels stand one under the other, each with a key of its own', () => {
  const bare = { ...lowRank, keep: 0.6 }
  assert.ok(rowKey({ ...bare, drops: true }) !== rowKey(bare))
  const rows = [
    row(bare, { perplexity: 76.56, keep: 0.5999 }),
    row({ ...bare, drops: true }, { perplexity: 60.1, keep: 0.5998 }),
  ]
  const lines = renderSection('channels', rows, {}).split('\n')
  const at = lines.indexOf('| curve | pivoted bf16 | 0.6 | 0.5999 | 76.56 | 1.000 |')
  assert.ok(at > 0, lines.join('\n'))
  assert.is(lines[at + 1], '| curve, channels dropped | pivoted bf16 | 0.6 | 0.5998 | 60.10 | 1.000 |')
})

test('means of samples carry their intervals, and what needs no model stands beside them', () => {
  const scores = {
    rouge1: 0.2,
    rouge2: 0.05,
    rougeL: 0.15,
    samples: 10,
    interval: [0.1, 0.2] as [number, number],
  }
  const rows = [
    row({ kind: 'trivial', summary: 'first words' }, { summaries: scores }),
    row(
      { ...lowRank, calibration: { ...lowRank.calibration, source: 'self' } },
      {
        perplexity: 33,
        summaries: { ...scores, dense: { rougeL: 0.5, interval: [0.4, 0.6] } },
      },
    ),
  ]
  const text = renderSection('calibration', rows, { summaries: 'test.jsonl', summaryLimit: 10 })
  assert.match(text, 'first 10 samples of test.jsonl')
  const lines = text.split('\n')
  assert.ok(lines.includes('|  | first 20 words |  |  | 0.200 | 0.050 | 0.150 (0.100 to 0.200) |  |'))
  assert.ok(
    lines.includes(
      '| self | curve | 0.8 | 33.00 | 0.200 | 0.050 | 0.150 (0.100 to 0.200) | 0.500 (0.400 to 0.600) |',
    ),
    lines.join('\n'),
  )
})

test('options name what is wrong with them', () => {
  const bare = readOptions([])
  assert.is(bare?.model, tiny)
  assert.equal(bare?.sections, [...sectionNames])
  assert.is(readOptions(['--help']), undefined)
  const wrong = [
    ['model.gguf'],
    ['--section', 'all'],
    ['--keep', '1.5'],
    ['--windows', '0'],
    ['--continue'],
    ['--unknown'],
    ['--dtype', 'int8'],
  ]
  for (const args of wrong) {
    assert.throws(
      () => readOptions(args),
      (error: unknown) => error instanceof FlrcError && error.code === 'E_USAGE',
      args.join(' '),
    )
  }
})

test.run()
