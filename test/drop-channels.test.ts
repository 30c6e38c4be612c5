import { readFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { calibrate } from '#lib/calibrate.js'
import { channelGroup } from '#lib/compress/channels.js'
import { type CompressOptions, compress } from '#lib/compress.js'
import { perplexity } from '#lib/evaluate.js'
import { Model } from '#lib/public-model.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { narrowCheckpoint } from './support/narrow.js'
import { temporaryDirectory } from './support/paths.js'

const read = (name: string) => readFileSync(path.join(tinyModel, name), 'utf8')
const text = read('calibration.txt')
const dense = await Model.load(tinyModel)
const usual: CompressOptions = { calibration: [text], samples: 16, seqLen: 128, keep: 0.4 }
const { layers, intermediateSize } = dense.config
const all = layers * intermediateSize

/** Perplexity of text that nothing was calibrated on. */
const measured = async (model: Model) =>
  (await perplexity(model, read('heldout.txt'), { seqLen: 256, windows: 16 })).perplexity

const sum = (values: readonly number[] = []) => values.reduce((total, value) => total + value, 0)

const channels = suite('compress without channels')

channels('drops a share of them, and keeps the same number of parameters', async () => {
  const whole = await compress(dense, usual)
  const small = await compress(dense, { ...usual, dropChannels: 0.25 })
  const left = small.config.intermediateSizes ?? []
  assert.is(left.length, layers)
  const group = channelGroup(intermediateSize)
  assert.ok(
    left.every((size) => size % group === 0 && size > 0 && size <= intermediateSize),
    `${left}`,
  )
  assert.is(sum(left), all * 0.75)
  assert.ok(new Set(left).size > 1, 'layers differ')
  assert.is(small.denseParameters, dense.denseParameters)
  const kept = (small.levels[0]?.parameters ?? 0) / dense.denseParameters
  assert.ok(kept <= 0.4 && kept > 0.395, `${kept}`)
  assert.ok(Math.abs((small.levels[0]?.budget ?? 0) - kept) < 1e-12)
  assert.ok((await measured(small)) < (await measured(whole)) * 0.98, 'where little is kept it pays')
  assert.is(small.report?.channels?.dropped, 0.25)
  assert.equal(small.report?.intermediateSizes, left)
  assert.ok((small.report?.seconds.channels ?? 0) > 0 && (small.plan?.channels?.loss ?? 0) > 0)
  assert.is(dense.config.intermediateSizes, undefined, 'the model given stays as it was')
  whole.dispose()
  small.dispose()
})

channels('are as many as pay: more the less is kept, none where all is', async () => {
  const calibration = await calibrate(dense, { calibration: [text], samples: 16, seqLen: 128 })
  const shares = []
  for (const keep of [1, 0.6, 0.3]) {
    const small = await compress(dense, { calibration, keep, dropChannels: 'auto' })
    shares.push(1 - sum(small.config.intermediateSizes ?? [all]) / all)
    small.dispose()
  }
  assert.is(shares[0], 0)
  assert.ok((shares[1] ?? 1) < (shares[2] ?? 0), `${shares}`)
  const cut = await compress(dense, { calibration, keep: 0.5 })
  assert.ok(cut.levels.length === 1, 'the calibration given is still there')
  cut.dispose()
  calibration.dispose()
})

channels('are chosen alike with a calibration at hand and without', async () => {
  const options = { samples: 8, seqLen: 128, keep: 0.3, dropChannels: 'auto' } as const
  const calibration = await calibrate(dense, { calibration: [text], samples: 8, seqLen: 128 })
  const one = await compress(dense, { ...options, calibration })
  const other = await compress(dense, { ...options, calibration: [text] })
  assert.equal(one.config.intermediateSizes, other.config.intermediateSizes)
  assert.is(await measured(one), await measured(other))
  for (const model of [one, other]) model.dispose()
  calibration.dispose()
})

channels('go with levels, int8, a target and a recovery, through a checkpoint', async () => {
  const directory = temporaryDirectory()
  const cases: Partial<CompressOptions>[] = [
    { keep: 0.6, levels: [0.6, 0.3], dtype: 'int8' },
    { keep: undefined, targetBytes: 1_100_000 },
    { recover: { minutes: 0.05 } },
    { method: 'energy', storage: 'plain' },
  ]
  for (const [index, options] of cases.entries()) {
    const small = await compress(dense, { ...usual, dropChannels: index === 0 ? 'auto' : 0.25, ...options })
    const target = path.join(directory, String(index))
    await small.save(target)
    const loaded = await Model.load(target)
    assert.ok(sum(loaded.config.intermediateSizes) < all)
    assert.equal(loaded.config.intermediateSizes, small.config.intermediateSizes)
    assert.is(await measured(loaded), await measured(small))
    if (options.targetBytes) assert.ok(small.storedBytes <= 1_100_000 && small.storedBytes > 1_090_000)
    if (options.recover) {
      const { curve = [], best } = small.report?.recovery ?? {}
      assert.ok((best?.kl[0] ?? 9) <= (curve[0]?.kl[0] ?? 0), 'towards the model with all its channels')
    }
    await throwsFlrcError(() => compress(loaded, { ...usual, keep: 0.3 }), {
      code: 'E_USAGE',
      message: /compressed already/,
    })
    for (const model of [small, loaded]) model.dispose()
  }
})

channels('are measured beside the model that has them all', async () => {
  const options = { ...usual, heldOut: 4 }
  const [whole, small] = [
    await compress(dense, options),
    await compress(dense, { ...options, dropChannels: 0.5 }),
  ]
  assert.is(small.report?.heldOut?.dense.perplexity, whole.report?.heldOut?.dense.perplexity)
  assert.ok(
    (small.report?.heldOut?.levels[0]?.perplexity ?? 0) > (whole.report?.heldOut?.dense.perplexity ?? 0),
  )
  for (const model of [whole, small]) model.dispose()
})

channels('are refused as shares that there are not, and without curves to go by', async () => {
  for (const dropChannels of [-0.1, 0.8, Number.NaN, 'some' as 'auto']) {
    await throwsFlrcError(() => compress(dense, { ...usual, dropChannels }), {
      code: 'E_USAGE',
      message: /dropChannels .* auto, or a share from 0 to 0.75/,
    })
  }
  const calibration = await calibrate(dense, { calibration: [text], samples: 2, seqLen: 64, curves: false })
  await throwsFlrcError(
    () => compress(dense, { calibration, keep: 0.5, method: 'uniform', dropChannels: 'auto' }),
    { code: 'E_USAGE', message: /truncation curves/ },
  )
  calibration.dispose()
})

channels('are not dropped from what has some dropped already', async () => {
  const narrow = await Model.load(
    await narrowCheckpoint(
      temporaryDirectory(),
      Array.from({ length: layers }, () => intermediateSize / 2),
    ),
  )
  await throwsFlrcError(() => compress(narrow, { ...usual, dropChannels: 0.25 }), {
    code: 'E_USAGE',
    message: /dropped already/,
  })
  narrow.dispose()
})

channels('stop when told to, and leave nothing that runs', async () => {
  for (const stage of ['channels', 'calibrate'] as const) {
    const stop = new AbortController()
    let passes = 0
    const onProgress = ({ stage: now, done }: { stage: string; done: number }) => {
      if (now === stage && done > 0 && ++passes === 2) stop.abort()
    }
    await throwsFlrcError(
      () => compress(dense, { ...usual, dropChannels: 0.25, signal: stop.signal, onProgress }),
      { code: 'E_ABORTED' },
    )
  }
})

channels('are told of by the program, in words and as JSON', async () => {
  const directory = temporaryDirectory()
  const file = path.join(tinyModel, 'calibration.txt')
  const args = [
    'compress',
    tinyModel,
    '--keep',
    '.4',
    '--calibration',
    file,
    '--samples',
    '8',
    '--seq-len',
    '128',
  ]
  const words = await runCli([...args, '--drop-channels', 'auto', '-o', path.join(directory, 'a')])
  assert.is(words.code, 0, words.stderr)
  assert.match(words.stdout, /[\d.]+% of the MLPs' channels dropped: \d+ to \d+ of them left in a layer/)
  const json = await runCli([...args, '--drop-channels', '.25', '-o', path.join(directory, 'b'), '--json'])
  const { channels: dropped, intermediateSizes, seconds } = JSON.parse(json.stdout)
  assert.is(dropped.dropped, 0.25)
  assert.is(sum(intermediateSizes), all * 0.75)
  assert.ok(seconds.channels > 0 && seconds.total > seconds.channels)
  for (const wrong of ['.9', 'much']) {
    const { code, stderr } = await runCli([...args, '--drop-channels', wrong, '-o', path.join(directory, 'c')])
    assert.is(code, 2)
    assert.match(stderr, /--drop-channels/)
  }
})

channels.after(() => dense.dispose())
channels.run()
