import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { DialogueSample } from '#lib/data/dialogues.js'
import { calibrated, calibrateSchedule, compress, evaluate, inspect, Model } from '#lib/index.js'
import { parseSchedule } from '#lib/schedule.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const dense = await Model.load(tinyModel, { dtype: 'f32' })
const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
const options = { calibration, samples: 4, seqLen: 64, method: 'uniform' } as const
const small = await compress(dense, { ...options, keep: 0.8, levels: [0.8, 0.6, 0.4] })
const folder = temporaryDirectory()
const checkpoint = path.join(folder, 'small')
await small.save(checkpoint)
const one = path.join(folder, 'one')
await (await compress(dense, { ...options, keep: 0.8 })).save(one)

const dialogues: DialogueSample[] = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
  .split('\n')
  .filter((line) => line.length > 60)
  .slice(0, 6)
  .map((line) => ({ dialogue: line.slice(0, 60), summaries: [line.slice(0, 30)] }))
const data = path.join(folder, 'dialogues.jsonl')
writeFileSync(
  data,
  dialogues.map((sample) => `${JSON.stringify({ dialogue: sample.dialogue, summary: 's' })}\n`).join(''),
)

test('the schedule chosen is the best of those within the budget, as agreement measures it', async () => {
  const seen = new Set<string>()
  const budget = 0.6
  const result = await calibrateSchedule(small, dialogues, {
    ...{ budget, reference: dense, maxTokens: 16 },
    onProgress: ({ stage }) => seen.add(stage),
  })
  assert.equal([...seen], ['levels', 'schedules', 'texts'])
  assert.is(result.samples, 6)
  const { frontier, schedule } = result
  assert.ok(frontier.length >= 4, `${frontier.length} points`)
  for (const [index, point] of frontier.entries()) {
    const next = frontier[index + 1]
    assert.ok(next === undefined || (next.budget > point.budget && next.kl < point.kl))
    assert.ok(point.interval[0] <= point.kl && point.kl <= point.interval[1])
    assert.ok(Math.abs(point.predictedKl / point.kl - 1) < 0.5, `${point.predictedKl} and ${point.kl}`)
  }
  const chosen = frontier.filter((point) => point.budget <= budget).at(-1)
  assert.is(schedule, chosen?.schedule)
  assert.ok((chosen?.budget ?? 0) > 0.55, 'little of the budget is left')
  const again = await evaluate.agreement(small, dense, dialogues, {
    ...{ maxTokens: 16, schedule: parseSchedule(schedule) },
  })
  assert.is(again.meanKl, chosen?.kl)
  assert.is(again.agreement, chosen?.agreement)
  const texts = await evaluate.summarize(small, dialogues, {
    ...{ maxTokens: 16, schedule: parseSchedule(schedule) },
  })
  assert.ok(Math.abs(texts.meanActiveBudget - (chosen?.budget ?? 0)) < 1e-12, 'what its own texts spend')
  assert.ok(Math.abs(texts.rougeL - (chosen?.rougeL ?? 0)) < 1e-12)
  // Levels kept throughout are predicted exactly.
  const full = frontier.find((point) => point.schedule === 'full')
  assert.ok(Math.abs((full?.predictedKl ?? 0) / (full?.kl ?? 1) - 1) < 1e-9)
  assert.is(result.levels.length, 3)
  assert.equal(result.levels[0]?.kl[0], result.levels[2]?.kl[0], 'step 0 is at level 0')
})

test('by default the reference is level 0, which loses nothing', async () => {
  const bare = dialogues.map(({ dialogue = '' }) => ({ dialogue }))
  const { frontier, levels, schedule } = await calibrateSchedule(small, bare, { budget: 1, maxTokens: 8 })
  assert.is(frontier[0]?.rougeL, undefined)
  assert.is(schedule, 'full')
  assert.is(frontier.at(-1)?.kl, 0)
  assert.equal(new Set(levels[0]?.kl), new Set([0]))
  assert.ok((levels[2]?.kl[7] ?? 0) > 0)
})

test('for a loss of ROUGE-L the cheapest schedule that keeps within it is chosen, as summarize measures it', async () => {
  const { outputs } = await evaluate.summarize(small, dialogues, { maxTokens: 16 })
  // What level 0 writes is what others lose against.
  const own = dialogues.map((sample, index) => ({ ...sample, summaries: [outputs[index]?.text ?? ''] }))
  const measure = (schedule: string) =>
    evaluate.summarize(small, own, { maxTokens: 16, schedule: parseSchedule(schedule) })
  const whole = await measure('full')
  const budgets: number[] = []
  for (const rougeLoss of [0, 0.3, 1]) {
    const { schedule, frontier } = await calibrateSchedule(small, own, { rougeLoss, maxTokens: 16 })
    for (const [index, point] of frontier.entries()) {
      const next = frontier[index + 1]
      assert.ok(next === undefined || (next.budget > point.budget && (next.rougeL ?? 0) > (point.rougeL ?? 1)))
      const [low = 1, high = 0] = point.rougeLossInterval ?? []
      assert.ok(low <= (point.rougeLoss ?? 2) && (point.rougeLoss ?? -2) <= high)
    }
    const chosen = frontier.find((point) => (point.rougeLoss ?? 2) <= rougeLoss + 1e-9)
    assert.is(schedule, chosen?.schedule)
    const texts = await measure(schedule)
    assert.ok(Math.abs(texts.meanActiveBudget - (chosen?.budget ?? 0)) < 1e-12)
    assert.ok(Math.abs(whole.rougeL - texts.rougeL - (chosen?.rougeLoss ?? 0)) < 1e-12)
    budgets.push(texts.meanActiveBudget)
  }
  const [none = 0, some = 0, all = 0] = budgets
  assert.ok(all < some && some < none, budgets.join(' '))
  assert.ok(all < 0.45, 'where anything may be lost, the lowest level is kept')
})

test('what cannot be chosen', async () => {
  const refused = (wanted: object, model = small) =>
    throwsFlrcError(() => calibrateSchedule(model, dialogues, { budget: 0.6, maxTokens: 8, ...wanted }), {
      code: 'E_USAGE',
    })
  await refused({ budget: undefined })
  await refused({ rougeLoss: 0.01 })
  await refused({ budget: undefined, rougeLoss: -0.01 })
  await refused({ budget: undefined, rougeLoss: 1.5 })
  const bare = [...dialogues.slice(0, 2), { id: 'bare', dialogue: 'Who is there?' }]
  await throwsFlrcError(() => calibrateSchedule(small, bare, { rougeLoss: 0.01, maxTokens: 8 }), {
    ...{ code: 'E_USAGE', message: /sample bare has no summary/ },
  })
  await refused({ budget: 0 })
  await refused({ budget: 1.5 })
  await refused({ maxTokens: 0 })
  await refused({ limit: 0 })
  await refused({}, dense)
  // One level-0 token in 8, and all others at the lowest level.
  await throwsFlrcError(() => calibrateSchedule(small, dialogues, { budget: 0.3, maxTokens: 8 }), {
    code: 'E_USAGE',
    message: /its lowest: 0\.4[45]/,
  })
  const signal = AbortSignal.abort()
  const aborted = { budget: 0.6, signal }
  await throwsFlrcError(() => calibrateSchedule(small, dialogues, aborted), { code: 'E_ABORTED' })
  const stopped = new AbortController()
  const onProgress = ({ stage }: { stage: string }) => stage === 'schedules' && stopped.abort()
  const late = { budget: 0.6, maxTokens: 8, signal: stopped.signal, onProgress }
  await throwsFlrcError(() => calibrateSchedule(small, dialogues, late), { code: 'E_ABORTED' })
})

/** Its tables fit a terminal of 80 columns. */
function assertNarrow(text: string): void {
  const tables = text.split('\n').filter((line) => / {2}/.test(line))
  assert.ok(tables.length > 2)
  assert.equal(
    tables.filter((line) => line.length > 80),
    [],
  )
}

const run = (directory: string, ...args: string[]) =>
  runCli(['calibrate-schedule', directory, '--data', data, '--max-tokens', '8', '--limit', '3', ...args])

test('the program stores what it chose, and says the frontier', async () => {
  const ended = await run(checkpoint, '--budget', '.6', '--json')
  assert.is(ended.code, 0, ended.stderr)
  const result = JSON.parse(ended.stdout) as { schedule: string; frontier: object[] }
  assert.equal(Object.keys(result).slice(0, 2), ['schedule', 'frontier'])
  assert.is((await inspect(checkpoint)).schedule, result.schedule)
  const loaded = await Model.load(checkpoint)
  const stored = { maxTokens: 8, limit: 3, schedule: calibrated() }
  const { meanActiveBudget } = await evaluate.agreement(loaded, loaded, dialogues, stored)
  assert.ok(meanActiveBudget > 0.5 && meanActiveBudget <= 0.6, String(meanActiveBudget))
  const plain = await run(checkpoint, '--budget', '.7', '--reference', tinyModel)
  assert.is(plain.code, 0, plain.stderr)
  assert.match(plain.stdout, /schedule +budget +KL[\s\S]* \*[\s\S]*is stored in/)
  assertNarrow(plain.stdout)
})

test('the program chooses for a loss of ROUGE-L', async () => {
  const ended = await run(checkpoint, '--rouge-loss', '.02')
  assert.is(ended.code, 0, ended.stderr)
  assert.match(
    ended.stdout,
    /schedule +budget +KL[\s\S]* \*[\s\S]*schedule +ROUGE-L +lost of it\n[\s\S]* \*[\s\S]*is stored in/,
  )
  assertNarrow(ended.stdout)
  // No summary has a word of the texts, so nothing is lost at the lowest level.
  assert.match((await inspect(checkpoint)).schedule ?? '', /^constant:0\.4/)
})

test('the program stores nothing where it fails', async () => {
  const before = readFileSync(path.join(checkpoint, 'config.json'), 'utf8')
  const fails = async (code: string, exit: number, ...args: Parameters<typeof run>) => {
    const ended = await run(...args)
    assert.is(ended.code, exit, ended.stderr)
    assert.match(ended.stderr, new RegExp(`flrc: ${code}: `))
  }
  await fails('E_USAGE', 2, checkpoint)
  await fails('E_USAGE', 2, checkpoint, '--budget', '.7', '--rouge-loss', '.01')
  await fails('E_USAGE', 2, checkpoint, '--rouge-loss', '-1')
  await fails('E_USAGE', 2, checkpoint, '--budget', '1.5')
  await fails('E_USAGE', 2, checkpoint, '--budget', '.1')
  await fails('E_USAGE', 2, one, '--budget', '.7')
  await fails('E_USAGE', 2, tinyModel, '--budget', '.7')
  await fails('E_NOT_FOUND', 1, checkpoint, '--budget', '.7', '--reference', 'nowhere')
  await fails('E_NOT_FOUND', 1, path.join(folder, 'nowhere'), '--budget', '.7')
  assert.is(readFileSync(path.join(checkpoint, 'config.json'), 'utf8'), before)
})

test.run()
