import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { compress, Model } from 'flrc'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ModelFolder } from '../bench/progressive/models.js'
import { readOptions } from '../bench/progressive/options.js'
import { OutputFolder } from '../bench/progressive/outputs.js'
import { chosenRows, levelsAround, planRows, type Row, storedPlans } from '../bench/progressive/rows.js'
import { makeRows, type Run } from '../bench/progressive/run.js'
import { evenly, families, fittedSchedule, meanBudget } from '../bench/progressive/schedules.js'
import { figuresOf, joined, type Scores } from '../bench/progressive/scores.js'
import { readSearch } from '../bench/progressive/search.js'
import {
  measured,
  renderDifferences,
  renderQuality,
  renderSpeeds,
  renderSteps,
  renderStored,
} from '../bench/progressive/tables.js'
import { RowStore } from '../bench/quality/store.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { repository, temporaryDirectory } from './support/paths.js'

const levels = [0.9, 0.85, 0.8, 0.75, 0.7].map((budget) => ({ budget }))

test('a fitted schedule comes close to its mean from below, falling or rising', () => {
  const wanted = { budget: 0.8, keep: 0.9, reached: evenly(60) }
  const two = [{ budget: 0.9 }, { budget: 0.7 }]
  assert.is(fittedSchedule('step', two, wanted)?.schedule, 'step:0.9:0.7:30')
  // Step 0 comes from prefill, at level 0 in both.
  assert.is(fittedSchedule('step', two, { ...wanted, rising: true })?.schedule, 'step:0.7:0.9:31')
  for (const family of families) {
    const fitted = fittedSchedule(family, levels, wanted)
    if (fitted === undefined) throw new Error(`${family} has a fitting schedule`)
    const mean = meanBudget(fitted, levels, wanted.reached)
    assert.ok(mean <= 0.8 + 1e-9 && mean > 0.795, `${fitted.schedule}: ${mean}`)
    assert.is(fittedSchedule(family, levels, { ...wanted, budget: 0.69 }), undefined)
  }
})

test('steps count as often as texts reach them', () => {
  // One text of four tokens, three of two.
  const reached = [4, 4, 1, 1]
  const two = [{ budget: 0.9 }, { budget: 0.7 }]
  const fitted = fittedSchedule('step', two, { budget: 0.82, keep: 0.9, reached })
  assert.is(fitted?.schedule, 'step:0.9:0.7:1')
  assert.ok(fitted && Math.abs(meanBudget(fitted, two, reached) - (4 * 0.9 + 6 * 0.7) / 10) < 1e-12)
})

test('rows stand beside each budget, each once', () => {
  const options = { span: 0.1, source: 'text', dtype: 'bf16', summaries: true, dev: true, asvd: true } as const
  const rows = planRows({ ...options, budgets: [0.9, 0.8] })
  assert.is(new Set(rows.map(({ key }) => key)).size, rows.length)
  const names = rows.filter(({ budget }) => budget === 0.8).map(({ name }) => name)
  for (const name of [
    'uniform (SVD-LLM), static',
    'static level of the joint levels',
    'calibrated, two levels',
  ]) {
    assert.ok(names.includes(name), name)
  }
  for (const family of families) assert.ok(names.includes(`${family}, five levels`), family)
  const plain = planRows({ ...options, summaries: false, dev: false, asvd: false, budgets: [0.8] })
  assert.not.ok(plain.some(({ name, model }) => /^(calibrated|asvd)/.test(name) || model.kind === 'trivial'))
  const chosen = chosenRows(rows, { rows: ['curve', 'asvd'], dtype: 'bf16' })
  assert.equal(
    chosen.map(({ name }) => name),
    ['dense bf16', 'asvd, static', 'curve, static', 'asvd, static', 'curve, static'],
  )
  assert.equal(chosenRows(rows, { rows: [], dtype: 'bf16' }), rows)
  assert.equal(levelsAround(0.9, 0.1, 2), [0.97, 0.8])
  assert.equal(levelsAround(0.8, 0.1, 5), [0.9, 0.85, 0.8, 0.75, 0.7])
})

test('options: the embedded model by default, and what does not go together', async () => {
  const own = readOptions([])
  assert.match(own?.model ?? '', /models.tiny$/)
  assert.equal(own?.budgets, [0.9, 0.8, 0.7])
  assert.is(own?.plot, undefined)
  assert.is(readOptions(['--plot', 'figure.svg'])?.plot, 'figure.svg')
  assert.is(readOptions(['--help']), undefined)
  for (const args of [
    ['model.gguf'],
    ['a', 'b'],
    ['--budget', '1.5'],
    ['--rounds', '-1'],
    ['--continue'],
    ['--render'],
    ['--calibrate-on', 'dialogues'],
    ['--calibrate-on', 'nothing'],
    ['--nonsense'],
  ]) {
    await throwsFlrcError(() => readOptions(args), { code: 'E_USAGE' })
  }
})

const dialogues = [
  { id: 'king', dialogue: 'A: The king is coming.\nB: Then we must sweep.', summaries: ['A king is coming.'] },
  {
    id: 'fox',
    dialogue: 'A: A fox ate the hens.\nB: All of them?',
    summaries: ['A fox ate the hens.', 'Hens are gone.'],
  },
  {
    id: 'mill',
    dialogue: 'A: The mill stands still.\nB: There is no wind.',
    summaries: ['No wind, no flour.'],
  },
]

/** A run over the embedded model, whose store and folder others may go on with. */
async function tinyRun(
  folder: string,
  store: RowStore<Row>,
  limit: number,
): Promise<Run & { lines: string[] }> {
  const read = (name: string) => readFile(repository('models', 'tiny', name), 'utf8')
  const inputs = {
    calibration: await read('calibration.txt'),
    text: await read('heldout.txt'),
    ...{ choices: undefined, dialogues: undefined, transfer: undefined },
    summaries: dialogues,
  }
  const bench = {
    ...{ source: repository('models', 'tiny'), dtype: 'bf16' as const, inputs, limits: {} },
    numbers: { samples: 2, seqLen: 64, windows: 1, searchWindows: 1 },
    signal: new AbortController().signal,
  }
  const lines: string[] = []
  const settings = { samples: 2 }
  return {
    ...{ bench, store, lines, report: (line: string) => lines.push(line) },
    models: new ModelFolder(folder, bench, settings),
    outputs: new OutputFolder(folder, settings),
    measure: {
      ...{
        maxTokens: 12,
        prompts: dialogues,
        limit,
        alongLimit: 2,
        dev: dialogues,
        devLimit: 2,
        text: inputs.text,
      },
      speed: { prompts: [4], lengths: [4], rounds: 1 },
    },
  }
}

test('rows are made once, from models that are made once, and one that fails stops no other', async () => {
  const folder = temporaryDirectory()
  const store = await RowStore.open<Row>(undefined, { span: 0.1, calibratedOn: 'text', dtype: 'bf16' }, false)
  const run = await tinyRun(folder, store, 2)
  const all = planRows({
    ...{ budgets: [0.7], span: 0.1, source: 'text', dtype: 'bf16' },
    ...{ summaries: true, dev: true, asvd: false },
  })
  const chosen = [
    'dense bf16',
    'first words',
    'dense int4, against the calibration',
    'uniform (SVD-LLM), static',
    'curve, static',
    'static level of the joint levels',
    'prompt at level 0, then constant',
    'linear, five levels',
    'step reversed, two levels',
    'adaptive, two levels',
    'level 0 of two levels',
    'step, two levels',
    'self-speculation, two levels',
    'calibrated, two levels',
  ]
  const plans = all.filter(({ name }) => chosen.includes(name))
  assert.is(plans.length, chosen.length)
  // A step of which no length has a mean as low as this.
  const [impossible] = plans.filter(({ name }) => name === 'step, two levels')
  if (impossible === undefined) throw new Error('the plan has a step')
  const failures = await makeRows([{ ...impossible, key: 'impossible', budget: 0.1 }, ...plans], run)
  assert.equal(
    failures.map(({ key }) => key),
    ['impossible'],
  )
  assert.is(run.lines.filter((line) => line.startsWith('cut')).length, 5, run.lines.join('\n'))
  const rows = plans.flatMap(({ key }) => store.get(key) ?? []).map(measured)
  const byName = (name: string) => {
    const row = rows.find((one) => one.name === name)
    if (row === undefined) throw new Error(`no row ${name}`)
    return row
  }
  const dense = byName('dense bf16')
  assert.is(dense.figures.quality?.meanKl, 0)
  assert.is(dense.figures.summaries?.dense?.rougeL, 1)
  assert.equal(dense.scores?.ids, ['king', 'fox'])
  const words = byName('first words').figures
  assert.ok(words.summaries?.dense && words.quality === undefined && words.summaries.spent === undefined)
  assert.is(byName('dense int4, against the calibration').keep, 1)
  for (const name of [
    'prompt at level 0, then constant',
    'linear, five levels',
    'step, two levels',
    'step reversed, two levels',
    'adaptive, two levels',
  ]) {
    const row = byName(name)
    assert.ok((row.figures.quality?.meanActiveBudget ?? 1) < 0.73 && row.keep > 0.78, name)
    const spent = row.figures.summaries?.spent
    assert.ok(spent && spent.budget < 0.73 && spent.bytes < row.prefillBytes, name)
  }
  assert.match(byName('step reversed, two levels').schedule, /^step:0\.6:0\.8:/)
  const [speed] = byName('step, two levels').speeds ?? []
  assert.ok(speed !== undefined && speed.tokensPerSecond > 0 && speed.timeToFirstTokenMs > 0)
  const speculative = byName('self-speculation, two levels')
  assert.equal(speculative.scores, byName('level 0 of two levels').scores, 'its text is that of level 0')
  assert.is(speculative.speeds?.length, 1)
  const cut = byName('static level of the joint levels')
  assert.ok(cut.keep > 0.68 && cut.keep <= 0.7)
  assert.is(cut.figures.summaries?.spent?.bytes, cut.prefillBytes)
  assert.is(cut.speeds, undefined)

  const tables = [renderQuality, renderDifferences, renderStored, renderSteps, renderSpeeds]
    .map((render) => render(rows))
    .join('\n')
  for (const { name, schedule } of rows) assert.ok(tables.includes(`| ${name} |`) && tables.includes(schedule))
  assert.match(tables, /steps 0 to 0 \| steps 1 to 2 \| steps 3 to 6/)
  assert.match(tables, /Agreement by step/)

  assert.equal(storedPlans(store), plans, 'the tables can be made from the store alone')
  run.lines.length = 0
  await makeRows(plans, run)
  assert.equal(run.lines, [], 'nothing is made twice')
})

test('a larger limit adds samples, to the same figures as all at once', async () => {
  const options = { span: 0.1, source: 'text', dtype: 'bf16', summaries: true, dev: true, asvd: false } as const
  const plans = planRows({ ...options, budgets: [0.7] })
    .filter(({ name }) => ['dense bf16', 'linear, five levels', 'cosine, five levels'].includes(name))
    .map((plan) => ({ ...plan, timed: false }))
  const [, linear, cosine] = plans
  if (linear === undefined || cosine === undefined) throw new Error('the plan has falling rows')
  const openStore = () => RowStore.open<Row>(undefined, {}, false)
  const folder = temporaryDirectory()
  const store = await openStore()
  // One row stands where the other has only begun.
  assert.equal(await makeRows([linear], await tinyRun(folder, store, 2)), [])
  assert.equal(await makeRows([cosine], await tinyRun(folder, store, 1)), [])
  // What the dense model wrote is written again where it is gone.
  const outputs = join(folder, 'outputs')
  for (const file of await readdir(outputs)) if (file.startsWith('dense')) await rm(join(outputs, file))
  assert.equal(await makeRows(plans, await tinyRun(folder, store, 3)), [])
  const texts = new OutputFolder(folder, { samples: 2 })

  const whole = await openStore()
  const other = temporaryDirectory()
  await makeRows(plans, await tinyRun(other, whole, 3))
  const roundedTo = (scores: Scores | undefined) =>
    JSON.parse(JSON.stringify(scores), (_, value) =>
      typeof value === 'number' ? Math.round(value * 1e5) / 1e5 : value,
    )
  for (const { key, name } of plans) {
    assert.equal(roundedTo(store.get(key)?.scores), roundedTo(whole.get(key)?.scores), name)
    assert.is(store.get(key)?.schedule, whole.get(key)?.schedule)
    assert.is(store.get(key)?.scores?.ids.length, 3)
    assert.is(store.get(key)?.scores?.along?.kl.length, 2)
    assert.is(store.get(key)?.scores?.written?.people.rougeL.length, 3)
    const written = await texts.read({ key, name })
    assert.equal(
      written.map(({ id }) => id).sort(),
      ['fox', 'king', 'mill'],
      `${name} keeps its texts beside the models`,
    )
  }
})

test('means over tokens weigh samples by theirs, and sums by step are added', () => {
  const part = (id: string, tokens: number, kl: number): Scores => ({
    ids: [id],
    along: {
      ...{ tokens: [tokens], kl: [kl], agreement: [1], budget: [0.8] },
      byStep: {
        samples: Array.from({ length: tokens }, () => 1),
        kl: Array.from({ length: tokens }, () => kl),
        agreement: Array.from({ length: tokens }, () => 1),
        budget: Array.from({ length: tokens }, () => 0.8),
      },
    },
  })
  const { quality } = figuresOf(joined(part('a', 1, 0.4), part('b', 3, 0.2)))
  assert.ok(quality && Math.abs(quality.meanKl - (0.4 + 3 * 0.2) / 4) < 1e-9)
  assert.equal(
    quality.byStep.map(({ samples, kl }) => [samples, Math.round(kl * 1e6) / 1e6]),
    [
      [2, 0.3],
      [1, 0.2],
      [1, 0.2],
    ],
  )
})

test('ASVD is allocated by the search of a checkpoint', async () => {
  const folder = temporaryDirectory()
  const searched = join(folder, 'searched')
  const text = await readFile(repository('models', 'tiny', 'calibration.txt'), 'utf8')
  const model = await Model.load(repository('models', 'tiny'))
  const small = await compress(model, {
    method: 'asvd',
    keep: 0.5,
    calibration: [text],
    samples: 1,
    seqLen: 32,
  })
  await small.save(searched)
  small.dispose()
  model.dispose()
  const search = await readSearch(searched, small.plan?.model.sha256 ?? '')
  assert.is(search.windows, 1)
  await throwsFlrcError(() => readSearch(searched, 'another'), { code: 'E_USAGE', message: /another model/ })
  await throwsFlrcError(() => readSearch(folder, ''), {
    code: 'E_USAGE',
    message: /flrc compress --method asvd/,
  })

  const options = { span: 0.1, source: 'text', dtype: 'bf16', summaries: true, dev: true, asvd: true } as const
  const [plan] = planRows({ ...options, budgets: [0.7] }).filter(({ name }) => name.startsWith('asvd'))
  if (plan === undefined) throw new Error('the plan has ASVD')
  const store = await RowStore.open<Row>(undefined, {}, false)
  const run = await tinyRun(folder, store, 1)
  const models = new ModelFolder(folder, run.bench, { samples: 2 }, search)
  assert.equal(await makeRows([plan], { ...run, models }), [])
  const { keep } = store.get(plan.key) ?? {}
  assert.ok(keep !== undefined && keep > 0.69 && keep <= 0.7)

  const elsewhere = new ModelFolder(temporaryDirectory(), run.bench, {}, { ...search, losses: {} })
  await throwsFlrcError(() => makeRows([{ ...plan, key: 'other' }], { ...run, models: elsewhere }), {
    ...{ code: 'E_USAGE', message: /does not know model\.layers\.0/ },
  })
})

test.run()
