import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { rankAtRatio } from '#lib/allocate.js'
import type { CompressionPlan } from '#lib/checkpoint/plan.js'
import {
  type AllocateOptions,
  type CalibrateOptions,
  calibrate,
  compress,
  evaluate,
  Model,
  type Progress,
  sensitivitySearch,
} from '#lib/index.js'
import { runCli, tinyModel } from './support/child.js'
import { rejects } from './support/flrc-error.js'

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-test-'))
const calibrationFile = path.join(tinyModel, 'calibration.txt')
const text = readFileSync(calibrationFile, 'utf8')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const model = await Model.load(tinyModel)
const looks = (options: Partial<CalibrateOptions> = {}) =>
  calibrate(model, { calibration: [text], samples: 16, seqLen: 128, ...options })
const twoSided = await looks()
const scaled = await looks({ whitening: 'scaled', samples: 2, seqLen: 48, curves: false })

/** Compresses, measures and frees. */
async function measured(options: AllocateOptions & { calibration: typeof twoSided }) {
  const small = await compress(model, options)
  try {
    const { perplexity } = await evaluate.perplexity(small, heldout, { seqLen: 128, windows: 24 })
    return { perplexity, plan: small.plan as CompressionPlan, ranks: small.levels[0]?.ranks ?? {} }
  } finally {
    small.dispose()
  }
}

const scores = suite('scores')

scores('fisher goes by the score that was asked for, and the plan says which', async () => {
  const seen = new Set<string>()
  for (const score of ['fisher', 'gradient', 'taylor'] as const) {
    const { plan, ranks } = await measured({ keep: 0.7, method: 'fisher', score, calibration: twoSided })
    assert.is(plan.options.score, score)
    for (const [name, value] of Object.entries(plan.scores))
      assert.is(value, twoSided.scores[name]?.[score], name)
    // In proportion to the score among what is factored, whatever the shape, to within a rank or two.
    const factored = Object.entries(ranks).filter((entry): entry is [string, number] => entry[1] !== 'dense')
    const factor = Math.max(...factored.map(([name, rank]) => (rank - 2) / (plan.scores[name] as number)))
    for (const [name, rank] of factored.filter(([, rank]) => rank > 2)) {
      assert.ok(rank + 2 >= factor * (plan.scores[name] as number), `${score}: ${name} has rank ${rank}`)
    }
    seen.add(JSON.stringify(ranks))
  }
  assert.is(seen.size, 3, 'three scores, three allocations')
})

scores('a score that there is not', async () => {
  const score = 'magnitude' as 'taylor'
  await rejects(compress(model, { keep: 0.8, method: 'fisher', score, calibration: twoSided }), 'E_USAGE')
})

const whitenings = suite('whitening and shrinkage')

whitenings('uniform: each whitening says more of the inputs and gradients, and cuts better', async () => {
  const perplexity = async (whitening: CalibrateOptions['whitening']) => {
    using calibration = await looks({ whitening, samples: 32, curves: false })
    const result = await measured({ keep: 0.3, method: 'uniform', storage: 'plain', calibration })
    assert.is(result.plan.options.whitening, whitening)
    return result.perplexity
  }
  const rising: number[] = []
  for (const whitening of ['two-sided', 'input', 'scaled', 'none'] as const)
    rising.push(await perplexity(whitening))
  assert.equal(
    rising.toSorted((a, b) => a - b),
    rising,
  )
  assert.ok((rising[3] ?? 0) > 1.5 * (rising[1] ?? 0), `${rising}`)
})

whitenings('shrinkage leaves each channel and weakens pairs, on either side, from 0 to 1', async () => {
  const singular = async (shrinkage: CalibrateOptions['shrinkage']) => {
    using calibration = await looks({ samples: 4, curves: false, shrinkage })
    return { values: calibration.figures.singular[0], shrinkage: calibration.options.shrinkage }
  }
  const none = await singular({ inputs: 0, gradients: 0 })
  const [inputs, gradients] = [await singular({ inputs: 0.3, gradients: 0 }), await singular({ inputs: 0 })]
  assert.equal(inputs.shrinkage, { inputs: 0.3, gradients: 0 })
  assert.ok(
    gradients.shrinkage.inputs === 0 && gradients.shrinkage.gradients > 0,
    'by default gradients shrink',
  )
  // What two moments share is found in pairs: the spectrum is flatter without them, its sum much the same.
  const share = (values: Float64Array | undefined) => (values?.[0] ?? 0) ** 2 / sumOfSquares(values)
  for (const { values } of [inputs, gradients]) assert.ok(share(values) < share(none.values), 'flatter')
  for (const wrong of [-0.1, 1.1, Number.NaN]) {
    await rejects(looks({ shrinkage: { inputs: wrong } }), 'E_USAGE')
    await rejects(looks({ shrinkage: { gradients: wrong } }), 'E_USAGE')
  }
})

const sumOfSquares = (values: Float64Array | undefined) =>
  values?.reduce((sum, value) => sum + value ** 2, 0) ?? 0

const energy = suite('energy')

energy('goes by the spectra, which the plan keeps', async () => {
  const { plan, perplexity } = await measured({ keep: 0.7, method: 'energy', calibration: twoSided })
  assert.is(plan.method, 'energy')
  for (const [p, { name }] of model.projections.entries()) {
    assert.equal(plan.singular?.[name], twoSided.figures.singular[p])
  }
  const uniform = await measured({ keep: 0.7, method: 'uniform', calibration: twoSided })
  assert.ok(perplexity < uniform.perplexity, `${perplexity} against ${uniform.perplexity}`)
  assert.is(uniform.plan.singular, undefined)
})

energy('has levels as curve has', async () => {
  const small = await compress(model, {
    keep: 0.9,
    levels: [0.9, 0.7],
    method: 'energy',
    calibration: twoSided,
  })
  assert.is(small.levels.length, 2)
  assert.ok((small.levels[1]?.budget ?? 1) <= 0.7)
  small.dispose()
})

const asvd = suite('asvd')

asvd('the search measures one cut at a time on the windows asked for', async () => {
  const stages: Progress[] = []
  const projections = [3, 0]
  const found = await sensitivitySearch(scaled, {
    ...{ storage: 'plain', windows: 1, projections },
    onProgress: (progress) => stages.push(progress),
  })
  assert.is(scaled.sensitivities.size, 0, 'a part of a search is not kept')
  assert.equal([found.windows, found.tokens, found.ratios.length], [1, 48, 9])
  assert.equal(
    found.projections.map(({ name }) => name),
    projections.map((index) => model.projections[index]?.name),
  )
  assert.equal([stages[0]?.done, stages.at(-1)?.done, stages.at(-1)?.total], [0, 18, 18])
  // The same by hand: o_proj of the first layer at .4 of its parameters.
  const [shape, window] = [model.projections[3], scaled.windows[0]]
  assert.ok(shape && window)
  const levels = [
    Int32Array.from(model.projections, (_, p) => (p === 3 ? rankAtRatio(shape, 0.4, 'plain') : -1)),
  ]
  const parts = await scaled.factorize({ levels, storage: 'plain', dtype: model.dtype }, 1, {})
  const cut = new Model(parts)
  const [loss = Number.NaN] = await cut.windowLosses(window, window.length, 0, {})
  cut.dispose()
  assert.is(found.projections[0]?.losses[3], loss / (window.length - 1))
})

asvd('compress searches once a storage, on all windows, and goes by what it found', async () => {
  const begin = performance.now()
  const first = await compress(model, { keep: 0.8, method: 'asvd', calibration: scaled })
  console.log(`search of ${model.projections.length} projections: ${(performance.now() - begin).toFixed(0)} ms`)
  const found = scaled.sensitivities.get('pivoted')
  assert.ok(found)
  assert.equal([found.windows, found.tokens], [2, 96])
  assert.ok((first.report?.seconds.allocate ?? 0) >= found.seconds)
  const { sensitivity } = first.plan ?? {}
  assert.is(sensitivity?.windows, 2)
  assert.equal(
    Object.keys(sensitivity?.losses ?? {}),
    model.projections.map(({ name }) => name),
  )
  // Over the model, cutting more costs more, and cutting to .9 next to nothing.
  const mean = (ratio: number) =>
    found.projections.reduce((sum, { losses }) => sum + (losses[ratio] as number), 0) / found.projections.length
  assert.ok(mean(0) > mean(4) && mean(4) > mean(8), `${[mean(0), mean(4), mean(8)]}`)
  assert.ok(Math.abs(mean(8) - scaled.meanLoss) < 0.05, `${mean(8)} against ${scaled.meanLoss}`)
  const realised = first.levels[0]?.budget ?? 0
  assert.ok(realised <= 0.8 && realised > 0.798, `${realised}`)
  first.dispose()
  const again = await compress(model, { keep: 0.6, method: 'asvd', calibration: scaled })
  assert.is(scaled.sensitivities.get('pivoted'), found, 'the search is not run again')
  assert.equal(again.plan?.sensitivity, sensitivity)
  again.dispose()
})

asvd('has one level, and windows and projections that exist', async () => {
  const { message } = await rejects(
    compress(model, { keep: 0.8, levels: [0.8, 0.6], method: 'asvd', calibration: [text] }),
    'E_USAGE',
  )
  assert.match(message, 'one level')
  for (const projections of [[-1], [42], [0.5]])
    await rejects(sensitivitySearch(scaled, { projections }), 'E_USAGE')
  await rejects(sensitivitySearch(scaled, { windows: 0 }), 'E_USAGE')
  await rejects(sensitivitySearch(scaled, { windows: [] }), 'E_CALIBRATION')
  await rejects(sensitivitySearch(scaled, { windows: [Int32Array.of(1, 1e6)] }), 'E_CALIBRATION')
})

asvd('an aborted search stops and keeps nothing', async () => {
  const abort = new AbortController()
  const onProgress = ({ done }: Progress) => done === 18 && abort.abort()
  const begin = performance.now()
  await rejects(sensitivitySearch(scaled, { storage: 'plain', signal: abort.signal, onProgress }), 'E_ABORTED')
  assert.ok(performance.now() - begin < 5000)
  assert.is(scaled.sensitivities.get('plain'), undefined)
})

const program = suite('program')

program('every method compresses, with the same report, and writes what it went by', async () => {
  const quick = ['--calibration', calibrationFile, '--samples', '2', '--seq-len', '32']
  for (const method of ['curve', 'fisher', 'energy', 'asvd', 'uniform']) {
    const args = ['compress', tinyModel, '-o', method, '--keep', '.7', '--method', method, ...quick, '--json']
    const ended = await runCli(method === 'fisher' ? [...args, '--score', 'taylor'] : args, { cwd: folder })
    assert.is(ended.code, 0, ended.stderr)
    const report = JSON.parse(ended.stdout) as Record<string, object> & { levels: { budget: number }[] }
    assert.equal(
      Object.keys(report).join(' '),
      'keep storedParameters denseParameters storedBytes sourceBytes ranks dense levels scores seconds peakBytes',
    )
    assert.equal(
      Object.keys(report.seconds as object)
        .sort()
        .join(' '),
      'allocate calibrate curves factorize load save total',
    )
    assert.ok((report.levels[0]?.budget ?? 0) <= 0.7)
    const file = path.join(folder, method, 'flrc-plan.json')
    const plan = JSON.parse(readFileSync(file, 'utf8')) as CompressionPlan
    assert.is(plan.method, method)
    assert.is(plan.options.whitening, method === 'asvd' ? 'scaled' : 'two-sided')
    assert.is(plan.options.score, method === 'fisher' ? 'taylor' : 'fisher')
    assert.is(Object.keys(plan.curves).length, method === 'curve' ? 42 : 0)
    assert.is(Object.keys(plan.singular ?? {}).length, method === 'energy' ? 42 : 0)
    assert.is(Object.keys(plan.sensitivity?.losses ?? {}).length, method === 'asvd' ? 42 : 0)
  }
})

program('the whitening that is given holds for asvd too; wrong words are usage errors', async () => {
  const base = ['compress', tinyModel, '-o', 'x', '--keep', '.7', '--calibration', calibrationFile]
  const quick = ['--samples', '1', '--seq-len', '16']
  const given = await runCli([...base, ...quick, '--method', 'asvd', '--whitening', 'input'], { cwd: folder })
  assert.is(given.code, 0, given.stderr)
  const plan = JSON.parse(readFileSync(path.join(folder, 'x', 'flrc-plan.json'), 'utf8')) as CompressionPlan
  assert.is(plan.options.whitening, 'input')
  for (const wrong of [
    ['--method', 'best'],
    ['--score', 'magnitude'],
    ['--whitening', 'three-sided'],
    ['--method', 'asvd', '--levels', '.7,.5'],
  ]) {
    const { code, stderr } = await runCli([...base, ...wrong], { cwd: folder })
    assert.is(code, 2, wrong.join(' '))
    assert.match(stderr, 'flrc: E_USAGE')
  }
})

program.after(() => {
  rmSync(folder, { recursive: true })
  twoSided.dispose()
  scaled.dispose()
  model.dispose()
})

for (const tests of [scores, whitenings, energy, asvd, program]) tests.run()
