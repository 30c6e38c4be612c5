import { readFile } from 'node:fs/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ModelFolder } from '../bench/progressive/models.js'
import { readOptions } from '../bench/progressive/options.js'
import { levelsAround, planRows, type Row } from '../bench/progressive/rows.js'
import { makeRows, type Run } from '../bench/progressive/run.js'
import { families, fittedSchedule, meanBudget, reversed } from '../bench/progressive/schedules.js'
import { renderQuality, renderSpeeds, renderSteps } from '../bench/progressive/tables.js'
import { RowStore } from '../bench/quality/store.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { repository, temporaryDirectory } from './support/paths.js'

const levels = [0.9, 0.85, 0.8, 0.75, 0.7].map((budget) => ({ budget }))

test('a fitted schedule comes close to its mean from below', () => {
  const wanted = { budget: 0.8, keep: 0.9, steps: 60 }
  const step = fittedSchedule('step', [{ budget: 0.9 }, { budget: 0.7 }], wanted)
  assert.is(step?.schedule, 'step:0.9:0.7:30')
  for (const family of families) {
    const fitted = fittedSchedule(family, levels, wanted)
    if (fitted === undefined) throw new Error(`${family} has a fitting schedule`)
    const mean = meanBudget(fitted, levels)
    assert.ok(mean <= 0.8 + 1e-9 && mean > 0.795, `${fitted.schedule}: ${mean}`)
    assert.is(fittedSchedule(family, levels, { ...wanted, budget: 0.69 }), undefined)

    const rising = reversed(fitted, levels)
    const budgets = Array.from({ length: 59 }, (_, at) => rising(at + 1, {} as Parameters<typeof rising>[1]))
    const falling = fitted.levels.slice(1).map((level) => levels[level]?.budget ?? 0)
    assert.equal(budgets, falling.toReversed())
  }
})

test('rows stand beside each budget, each once', () => {
  const options = { span: 0.1, source: 'text', dtype: 'bf16', summaries: true, dev: true } as const
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
  const plain = planRows({ ...options, summaries: false, dev: false, budgets: [0.8] })
  assert.not.ok(plain.some(({ name, model }) => name.startsWith('calibrated') || model.kind === 'trivial'))
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
    ['--calibrate-on', 'dialogues'],
    ['--calibrate-on', 'nothing'],
    ['--nonsense'],
  ]) {
    await throwsFlrcError(() => readOptions(args), { code: 'E_USAGE' })
  }
})

test('rows are made once, from models that are made once, and one that fails stops no other', async () => {
  const read = (name: string) => readFile(repository('models', 'tiny', name), 'utf8')
  const inputs = {
    calibration: await read('calibration.txt'),
    text: await read('heldout.txt'),
    ...{ choices: undefined, dialogues: undefined, transfer: undefined },
    summaries: [
      { dialogue: 'A: The king is coming.\nB: Then we must sweep.', summaries: ['A king is coming.'] },
    ],
  }
  const numbers = { samples: 2, seqLen: 64, windows: 1, searchWindows: 1 }
  const signal = new AbortController().signal
  const bench = {
    ...{ source: repository('models', 'tiny'), dtype: 'bf16' as const, inputs, numbers, signal },
    limits: { summaryLimit: 1 },
  }
  const lines: string[] = []
  const run: Run = {
    bench,
    models: new ModelFolder(temporaryDirectory(), bench, { samples: 2 }),
    measure: {
      ...{ maxTokens: 12, prompts: inputs.summaries, limit: 1, dev: undefined, text: inputs.text },
      speed: { prompts: [4], lengths: [4], rounds: 1 },
    },
    store: await RowStore.open<Row>(undefined, {}, false),
    report: (line) => lines.push(line),
  }
  const all = planRows({
    ...{ budgets: [0.7], span: 0.1, source: 'text', dtype: 'bf16', summaries: true, dev: false },
  })
  const chosen = [
    'dense bf16',
    'first words',
    'curve, static',
    'static level of the joint levels',
    'prompt at level 0, then constant',
    'linear, five levels',
    'step reversed, two levels',
    'step, two levels',
    'self-speculation, two levels',
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
  assert.is(lines.filter((line) => line.startsWith('cut')).length, 3, lines.join('\n'))
  const rows = plans.flatMap(({ key }) => run.store.get(key) ?? [])
  const byName = (name: string) => {
    const row = rows.find((one) => one.name === name)
    if (row === undefined) throw new Error(`no row ${name}`)
    return row
  }
  assert.is(byName('dense bf16').quality?.meanKl, 0)
  assert.is(byName('dense bf16').summaries?.dense?.rougeL, 1)
  assert.ok(byName('first words').summaries)
  for (const name of ['prompt at level 0, then constant', 'linear, five levels', 'step, two levels']) {
    const row = byName(name)
    assert.ok((row.quality?.meanActiveBudget ?? 1) < 0.72 && row.keep > 0.78, name)
    const [speed] = row.speeds ?? []
    assert.ok(speed !== undefined && speed.tokensPerSecond > 0 && speed.timeToFirstTokenMs > 0, name)
  }
  const speculative = byName('self-speculation, two levels')
  assert.ok((speculative.quality?.meanActiveBudget ?? 0) > 0.78, 'its tokens are those of level 0')
  assert.is(speculative.speeds?.length, 1)
  const cut = byName('static level of the joint levels')
  assert.ok(cut.keep > 0.68 && cut.keep <= 0.7)
  assert.is(cut.speeds, undefined)

  const tables = [renderQuality(rows), renderSteps(rows), renderSpeeds(rows)].join('\n')
  for (const { name, schedule } of rows) assert.ok(tables.includes(`| ${name} |`) && tables.includes(schedule))
  assert.match(tables, /steps 0 to 0 \| steps 1 to 2 \| steps 3 to 6/)

  lines.length = 0
  await makeRows(plans, run)
  assert.equal(lines, [], 'nothing is made twice')
})

test.run()
