import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseHTML } from 'linkedom'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { calibrate } from '#lib/calibrate.js'
import { channelGroup } from '#lib/compress/channels.js'
import { type CompressOptions, compress } from '#lib/compress.js'
import { perplexity } from '#lib/evaluate.js'
import { Model } from '#lib/public-model.js'
import { reportHtml } from '#lib/report.js'
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

channels(
  'are not dropped from what has some dropped already, which says how much it reads itself',
  async () => {
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
    const small = await compress(narrow, { ...usual, heldOut: 1 })
    assert.is(small.plan?.heldOut?.dense.budget, narrow.levels[0]?.budget)
    const output = path.join(temporaryDirectory(), 'small')
    await small.save(output)
    const told = `dense</td><td>${narrow.levels[0]?.budget.toFixed(4)}`
    assert.match(
      (await reportHtml(output)).replaceAll(/<(td|th)[^>]*>/g, '<$1>').replaceAll('th>', 'td>'),
      told,
    )
    small.dispose()
    narrow.dispose()
  },
)

/** Of the parameters, those that half of the channels leave. */
const half = 2 / 3

channels('leave out levels that would read as much as level 0', async () => {
  const small = await compress(dense, {
    ...usual,
    ...{ keep: 0.95, levels: [0.95, 0.9, 0.7, 0.6, 0.4], levelWeights: [1, 2, 3, 4, 5], dropChannels: 0.5 },
  })
  assert.equal(small.plan?.budgets, [0.95, 0.6, 0.4])
  assert.equal(small.plan?.options.levelWeights, [1, 4, 5])
  assert.is(small.levels.length, 3)
  const stored = small.levels[0]?.budget ?? 0
  assert.ok(stored <= half + 1e-9 && stored > half - 0.01, `${stored}`)
  assert.ok((small.levels[1]?.budget ?? 1) <= 0.6)
  const target = path.join(temporaryDirectory(), 'levels')
  await small.save(target)
  const card = readFileSync(path.join(target, 'README.md'), 'utf8')
  assert.match(card, `it keeps ${(stored * 100).toFixed(1)}% of the parameters`)
  assert.is(JSON.parse(readFileSync(path.join(target, 'config.json'), 'utf8')).flrc.keep, 0.95)
  assert.is(small.plan?.options.dropChannels, 0.5)
  const { document } = parseHTML(await reportHtml(target))
  const told = (section: string) => document.querySelector(`#${section} table`)?.textContent ?? ''
  assert.match(told('time'), /choose and drop channels/)
  for (const row of [
    /dropChannels\s*0\.5/,
    /budgets asked for\s*0\.95, 0\.6, 0\.4/,
    /channels.* dropped\s*50\.0%/,
  ]) {
    assert.match(told('origin'), row)
  }
  small.dispose()
})

channels('make room for ranks that the whole model has none for', async () => {
  const floor = { ...usual, rankFloor: 0.9 }
  const small = await compress(dense, { ...floor, keep: 0.8, dropChannels: 0.5 })
  assert.ok((small.levels[0]?.budget ?? 1) <= 0.8)
  small.dispose()
  const stages = new Set<string>()
  const onProgress = ({ stage }: { stage: string }) => stages.add(stage)
  await throwsFlrcError(() => compress(dense, { ...floor, keep: 0.2, dropChannels: 0.25, onProgress }), {
    code: 'E_USAGE',
    message: /keep 0\.2 is not enough for rank floor 0\.9/,
    within: 60_000,
  })
  assert.not.ok(stages.has('calibrate'), 'told before what is left is calibrated')
  await throwsFlrcError(() => compress(dense, { ...usual, dropChannels: 0.25, rankFloor: -1 }), {
    code: 'E_USAGE',
    message: /rank floor is -1/,
  })
})

channels('stay where a target of perplexity is beyond reach without them, or are named', async () => {
  const calibration = await calibrate(dense, { calibration: [text], samples: 4, seqLen: 128, heldOut: 4 })
  const small = await compress(dense, {
    ...{ calibration, targetPerplexityIncrease: 0.05, dropChannels: 'auto' },
  })
  const { dense: whole, levels } = small.report?.heldOut ?? {}
  assert.ok((levels?.[0]?.perplexity ?? 9) <= 1.05 * (whole?.perplexity ?? 0))
  assert.is(small.config.intermediateSizes, undefined, 'the ones that pay at that keep would cost more than 5%')
  small.dispose()
  const target = { calibration, targetPerplexityIncrease: 0.02 }
  await throwsFlrcError(() => compress(dense, { ...target, dropChannels: 0.5 }), {
    code: 'E_USAGE',
    message: /increase of 2\.00% without 50\.00% of the channels: keep 1 has .*a smaller --drop-channels/,
    within: 60_000,
  })
  calibration.dispose()
})

channels('rank apart in the state by what they were ranked with', async () => {
  const folder = temporaryDirectory()
  const options = { ...usual, samples: 2, whitening: 'input', dropChannels: 0.75 } as const
  for (const shrinkage of [undefined, { inputs: 0, gradients: 0 }]) {
    ;(await compress(dense, { ...options, shrinkage, state: path.join(folder, 's'), resume: true })).dispose()
  }
  assert.is(readdirSync(folder).filter((name) => /^s-[0-9a-f]{16}$/.test(name)).length, 2)
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
  const half = ['--drop-channels', '.5', '--levels', '.9,.6', '-o', path.join(directory, 'd')]
  const large = await runCli([...args, '--keep', '.95', ...half])
  assert.match(large.stdout, /keeps 66\.67% of the block parameters/)
  assert.match(
    large.stderr,
    /note: 1 level left out \(0\.9\): without 50\.0% of the channels, level 0 reads 0\.6667/,
  )
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
