// Models whose layers' MLPs have different numbers of channels.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { denseBlockParameters } from '#lib/format/projections.js'
import { calibrate, compress, exportModel, inspect, Model } from '#lib/index.js'
import { openModelSource } from '#lib/model-source.js'
import { reportHtml } from '#lib/report.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { narrowCheckpoint } from './support/narrow.js'
import { temporaryDirectory } from './support/paths.js'

const root = temporaryDirectory()
// Of 256 in each of 6 layers, hidden size 128.
const channels = [256, 160, 100, 256, 37, 201]
const all = channels.length * 256
const directory = await narrowCheckpoint(join(root, 'narrow'), channels)
const calibration = [readFileSync(join(tinyModel, 'calibration.txt'), 'utf8')]
const json = (file: string) => JSON.parse(readFileSync(file, 'utf8'))
const near = (got: number, expected: number, part: number) =>
  assert.ok(Math.abs(got - expected) <= part * Math.abs(expected), `${got}, expected ${expected}`)

/** Mean loss of windows of the held-out text. */
async function loss(model: Model): Promise<number> {
  const text = readFileSync(join(tinyModel, 'heldout.txt'), 'utf8').slice(0, 4000)
  const tokens = model.tokenizer.encode(text).slice(0, 256)
  const losses = await model.windowLosses(tokens, 64, 0, {})
  return losses.reduce((sum, value) => sum + value, 0) / (4 * 63)
}

test('shapes are the layers own, and budgets are shares of the whole model', async () => {
  const whole = await Model.load(tinyModel)
  const narrow = await Model.load(directory)
  assert.is(narrow.config.intermediateSize, 256)
  assert.equal(narrow.config.intermediateSizes, channels)
  assert.is(whole.config.intermediateSizes, undefined)
  const shapes = narrow.projections.filter(({ layer }) => layer === 4).map(({ rows, cols }) => [rows, cols])
  assert.equal(shapes.slice(4), [
    [37, 128],
    [37, 128],
    [128, 37],
  ])
  const gone = 3 * 128 * (all - channels.reduce((sum, size) => sum + size, 0))
  assert.is(narrow.denseParameters, whole.denseParameters)
  assert.is(denseBlockParameters(narrow.config), whole.denseParameters)
  const [level] = narrow.levels
  assert.is(level?.parameters, whole.denseParameters - gone)
  assert.is(level?.budget, 1 - gone / whole.denseParameters)
  assert.ok((await loss(narrow)) > (await loss(whole)))
  for (const model of [whole, narrow]) model.dispose()
})

test('an export is a model of the source config that gives the same losses', async () => {
  const narrow = await Model.load(directory)
  const to = join(root, 'export')
  await exportModel(narrow, to)
  const { torch_dtype: _written, ...config } = json(join(to, 'config.json'))
  const { torch_dtype: _read, ...source } = json(join(tinyModel, 'config.json'))
  assert.equal(config, source)
  assert.equal(
    (await openModelSource(to)).tensors.get('model.layers.4.mlp.down_proj.weight')?.shape,
    [128, 256],
  )
  narrow.dispose()
  // In f32 only the order of sums differs.
  const [exported, again] = [
    await Model.load(to, { dtype: 'f32' }),
    await Model.load(directory, { dtype: 'f32' }),
  ]
  near(await loss(exported), await loss(again), 1e-5)
  for (const model of [exported, again]) model.dispose()
})

test('what is calibrated and cut from a narrow model is saved, loaded and exported with its shapes', async () => {
  const narrow = await Model.load(directory, { dtype: 'f32' })
  const found = await calibrate(narrow, { calibration, samples: 4, seqLen: 64 })
  assert.is(found.curves[4 * 7 + 4]?.length, 38)
  const small = await compress(narrow, { keep: 0.7, levels: [0.5], calibration: found, dtype: 'f32' })
  const to = join(root, 'small')
  await small.save(to)
  const { flrc } = json(join(to, 'config.json'))
  assert.equal([flrc.version, flrc.intermediateSizes], [2, channels])
  assert.equal(flrc.source, json(join(tinyModel, 'config.json')))
  assert.match(readFileSync(join(to, 'README.md'), 'utf8'), ' a layer has left 37 to 256 of 256, 66% in all.')
  assert.match(await reportHtml(to), 'channels left in each MLP: 37 to 256 of 256, 66% in all<')
  const loaded = await Model.load(to)
  assert.equal(loaded.levels, small.levels)
  assert.is(await loss(loaded), await loss(small))
  await exportModel(loaded, join(root, 'small-export'))
  const exported = await Model.load(join(root, 'small-export'), { dtype: 'f32' })
  near(await loss(exported), await loss(loaded), 1e-4)
  for (const model of [narrow, small, loaded, exported]) model.dispose()
  found.dispose()
})

test('a checkpoint that dropped no channels is of the first layout still', async () => {
  const whole = await Model.load(tinyModel)
  const small = await compress(whole, { keep: 0.7, calibration, samples: 2, seqLen: 32, method: 'uniform' })
  await small.save(join(root, 'whole'))
  const { flrc } = json(join(root, 'whole', 'config.json'))
  assert.equal([flrc.version, 'intermediateSizes' in flrc], [1, false])
  for (const model of [whole, small]) model.dispose()
})

const refused: [what: string, sizes: unknown, message: RegExp][] = [
  ['a size too few', channels.slice(1), /5 intermediateSizes for 6 layers/],
  ['more channels than there were', [...channels.slice(1), 257], /layer 5 has 257 channels of an MLP with 256/],
  ['no channel', [...channels.slice(1), 0], /intermediateSizes/],
  ['half a channel', [...channels.slice(1), 1.5], /intermediateSizes/],
  ['words', 'many', /intermediateSizes/],
]
for (const [what, intermediateSizes, message] of refused) {
  test(`refuses a header with ${what}`, async () => {
    const bad = await narrowCheckpoint(join(root, what), channels, (flrc) => ({ ...flrc, intermediateSizes }))
    const expected = { code: 'E_MODEL_FORMAT', file: join(bad, 'config.json'), message } as const
    await throwsFlrcError(() => openModelSource(bad), expected)
    await throwsFlrcError(() => openModelSource(bad), { ...expected, message: /write the checkpoint again/ })
  })
}

test('refuses tensors of another width than the header says', async () => {
  const sizes = [...channels.slice(1), 256]
  const bad = await narrowCheckpoint(join(root, 'other'), channels, (flrc) => ({
    ...flrc,
    intermediateSizes: sizes,
  }))
  await throwsFlrcError(() => Model.load(bad), { code: 'E_MODEL_FORMAT', message: /has shape \[/ })
})

test('inspect names what is left, and nothing where all is', async () => {
  const inspection = await inspect(directory)
  assert.equal(inspection.config.intermediateSizes, channels)
  assert.not('intermediateSizes' in JSON.parse(JSON.stringify((await inspect(tinyModel)).config)))
  const line = 'channels of the MLPs: 37 to 256 of 256, 66% in all'
  assert.match((await runCli(['inspect', directory])).stdout, `\n${line}\n`)
  assert.not.match((await runCli(['inspect', tinyModel])).stdout, 'channels of the MLPs')
})

test.run()
