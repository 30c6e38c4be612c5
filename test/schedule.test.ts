import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { FlrcError } from '#lib/errors.js'
import {
  adaptive,
  calibrated,
  constant,
  full,
  levelOf,
  linear,
  parseSchedule,
  progressive,
  type Schedule,
  type ScheduleShape,
  scheduleOn,
  step,
} from '#lib/schedule.js'

const context = { step: 0, promptTokens: 3, entropy: 1, level: 0, levels: [{ budget: 1 }] }

const kept = (keep: number, schedule?: string) => ({
  keep,
  source: { path: 'models/small', flrc: { schedule } },
})

function table(schedule: Schedule, steps: readonly number[]): number[] {
  return steps.map((i) => Number(schedule(i, { ...context, step: i }).toFixed(9)))
}

function usage(run: () => unknown): FlrcError {
  try {
    run()
  } catch (error) {
    assert.instance(error, FlrcError)
    assert.is((error as FlrcError).code, 'E_USAGE')
    return error as FlrcError
  }
  throw new Error('no error was thrown')
}

const steps = [0, 1, 2, 3, 4, 5, 1000]

test('full is level 0 of every model', () => {
  for (const i of steps) {
    assert.is(levelOf(full()(i, context), [{ budget: 0.8996 }, { budget: 0.7 }]), 0)
    assert.is(levelOf(full()(i, context), [{ budget: 1 }]), 0)
  }
})

test('constant', () => {
  assert.equal(table(constant(0.8), steps), [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])
})

test('step: A, then B from step K', () => {
  assert.equal(table(step({ from: 0.9, to: 0.5, over: 4 }), steps), [0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5])
})

test('linear: A + (B - A) min(1, i / K)', () => {
  assert.equal(table(linear({ from: 0.9, to: 0.5, over: 4 }), steps), [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5])
})

test('progressive is linear by default and may rise', () => {
  assert.equal(table(progressive({ from: 0.9, to: 0.5, over: 4 }), [0, 2, 4]), [0.9, 0.7, 0.5])
  assert.equal(table(progressive({ from: 0.4, to: 0.8, over: 2 }), [0, 1, 2, 3]), [0.4, 0.6, 0.8, 0.8])
})

test('cosine leaves A and meets B gently', () => {
  const half = Number((0.7 + 0.1 * Math.SQRT2).toFixed(9))
  const late = Number((0.7 - 0.1 * Math.SQRT2).toFixed(9))
  const schedule = progressive({ from: 0.9, to: 0.5, over: 4, shape: 'cosine' })
  assert.equal(table(schedule, steps), [0.9, half, 0.7, late, 0.5, 0.5, 0.5])
})

test('exponential falls by the same factor each step', () => {
  const schedule = progressive({ from: 0.8, to: 0.05, over: 4, shape: 'exponential' })
  assert.equal(table(schedule, steps), [0.8, 0.4, 0.2, 0.1, 0.05, 0.05, 0.05])
})

test('every shape ends at exactly B', () => {
  for (const shape of ['step', 'linear', 'cosine', 'exponential'] as ScheduleShape[]) {
    for (const to of [0.1, 0.3, 0.7, 1 / 3]) {
      const schedule = progressive({ from: 0.95, to, over: 7, shape })
      assert.is(schedule(7, context), to, shape)
      assert.is(schedule(70, context), to, shape)
      assert.ok(Math.abs(schedule(0, context) - 0.95) < 1e-12, shape)
    }
  }
})

test('a value between two levels takes the largest level not above it, or the last', () => {
  const levels = [0.95, 0.9, 0.8, 0.7].map((budget) => ({ budget }))
  const cases: [number, number][] = [
    [1, 0],
    [0.95, 0],
    [0.9499, 1],
    [0.9, 1],
    [0.89, 2],
    [0.8, 2],
    [0.75, 3],
    [0.7, 3],
    [0.2, 3],
  ]
  for (const [budget, level] of cases) assert.is(levelOf(budget, levels), level, String(budget))
  assert.is(levelOf(0.1, [{ budget: 1 }]), 0, 'a dense model has one level')
})

test('the budget a level was asked for means that level, although it realised a little less', () => {
  const levels = [{ budget: 0.9496 }, { budget: 0.8981 }, { budget: 0.7999 }]
  assert.equal(
    [0.95, 0.9, 0.8].map((budget) => levelOf(budget, levels)),
    [0, 1, 2],
  )
  assert.is(
    levelOf(1 - 0.9, [{ budget: 0.5 }, { budget: 0.1 }, { budget: 0.05 }]),
    1,
    'rounding does not lose a level',
  )
})

test('parseSchedule makes what the factories make', () => {
  const pairs: [string, Schedule][] = [
    ['full', full()],
    ['constant:.8', constant(0.8)],
    ['step:0.9:0.5:4', step({ from: 0.9, to: 0.5, over: 4 })],
    ['linear:.9:.5:4', linear({ from: 0.9, to: 0.5, over: 4 })],
    ['linear:.5:1:4', linear({ from: 0.5, to: 1, over: 4 })],
    ['cosine:1.0:.5:4', progressive({ from: 1, to: 0.5, over: 4, shape: 'cosine' })],
    ['exponential:.8:.05:4', progressive({ from: 0.8, to: 0.05, over: 4, shape: 'exponential' })],
  ]
  for (const [text, schedule] of pairs) {
    assert.equal(table(parseSchedule(text), steps), table(schedule, steps), text)
  }
})

test('parseSchedule refuses everything else and lists the forms', () => {
  const wrong = [
    '',
    'Full',
    'full:1',
    'constant',
    'constant:',
    'constant:0',
    'constant:1.01',
    'constant:-.5',
    'constant:.5x',
    'constant:NaN',
    'constant:.9:.8',
    'linear:.9:.7',
    'linear:.9:.7:64:1',
    'linear:.9:.7:0',
    'linear:.9:.7:-3',
    'linear:.9:.7:2.5',
    'linear:.9:.7:1e999',
    'linear:0:.7:64',
    'linear:.9:1.7:64',
    'linear: .9:.7:64',
    'adaptive:.9',
    'adaptive:.9:.7:1',
    'adaptive:.9:1.7',
    'adaptive:.9:.7:2:1',
    'adaptive:.9:.7:1:1e999',
    'calibrated:.9',
    'toString:.9:.7:64',
    '__proto__:.9:.7:64',
  ]
  for (const text of wrong) {
    const { message } = usage(() => parseSchedule(text))
    for (const form of ['full', 'constant:B', 'step:A:B:K', 'linear:A:B:K']) assert.match(message, form, text)
  }
})

test('the factories refuse budgets and steps that mean nothing', () => {
  usage(() => constant(0))
  usage(() => constant(Number.NaN))
  usage(() => linear({ from: 1.2, to: 0.5, over: 4 }))
  usage(() => linear({ from: 0.9, to: -0.5, over: 4 }))
  usage(() => linear({ from: 0.9, to: 0.5, over: 0 }))
  usage(() => linear({ from: 0.9, to: 0.5, over: 1.5 }))
  usage(() => progressive({ from: 0.9, to: 0.5, over: 4, shape: 'sine' as ScheduleShape }))
  for (const none of [undefined, null]) {
    for (const make of [progressive, step, linear, adaptive]) usage(() => make(none as never))
  }
})

test('a schedule written above what the model keeps is refused', () => {
  const { message } = usage(() => scheduleOn(parseSchedule('linear:.95:.7:64'), kept(0.9)))
  assert.match(message, '0.95')
  assert.match(message, '0.9')
  for (const schedule of [parseSchedule('linear:.9:.7:64'), parseSchedule('full'), () => 0.95]) {
    assert.is(scheduleOn(schedule, kept(0.9)), schedule)
  }
  assert.match(usage(() => scheduleOn(parseSchedule('adaptive:.95:.7'), kept(0.9))).message, '0.95')
  scheduleOn(constant(0.1 + 0.2), kept(0.3))
})

test('calibrated is the schedule that the checkpoint stores', () => {
  const schedule = scheduleOn(parseSchedule('calibrated'), kept(0.9, 'linear:.9:.5:4'))
  assert.equal(table(schedule, steps), table(linear({ from: 0.9, to: 0.5, over: 4 }), steps))
  usage(() => scheduleOn(calibrated(), kept(0.8, 'linear:.9:.5:4')))
})

test('without a stored schedule calibrated is refused with the remedy, and a stored one that is none is named', () => {
  const dense = { keep: 1, source: { path: 'models/dense', flrc: undefined } }
  for (const model of [kept(0.9), dense]) {
    const { message, file } = usage(() => scheduleOn(calibrated(), model))
    assert.match(message, 'flrc calibrate-schedule')
    assert.is(file, model.source.path)
  }
  for (const text of ['', 'linear:.9', 'calibrated']) {
    try {
      scheduleOn(calibrated(), kept(0.9, text))
      assert.unreachable(text)
    } catch (error) {
      assert.instance(error, FlrcError)
      assert.is((error as FlrcError).code, 'E_MODEL_FORMAT')
      assert.match((error as FlrcError).message, 'flrc calibrate-schedule')
    }
  }
  usage(() => calibrated()(1, context))
})

const levels = [0.95, 0.8, 0.6].map((budget) => ({ budget }))

/** The budgets that a schedule gives to steps of these entropies; each step's level is the next one's last. */
function follow(schedule: Schedule, entropies: readonly number[]): number[] {
  let level = 0
  return entropies.map((entropy, i) => {
    const budget = schedule(i + 1, { ...context, step: i + 1, entropy, level, levels })
    level = levelOf(budget, levels)
    return budget
  })
}

test('adaptive falls where the model is sure, rises where it is not, and between stays as it was', () => {
  const schedule = adaptive({ from: 0.95, to: 0.6, thresholds: { sure: 1, unsure: 2 } })
  assert.equal(
    follow(schedule, [1.5, 0.9, 1.5, 2, 2.1, 1.5, 1, 0.99]),
    [0.95, 0.6, 0.6, 0.6, 0.95, 0.95, 0.95, 0.6],
  )
})

test('one adaptive schedule serves several generations at once', () => {
  const schedule = adaptive({ from: 0.95, to: 0.6, thresholds: { sure: 1, unsure: 2 } })
  const at = (level: number) => schedule(3, { ...context, entropy: 1.5, level, levels })
  assert.equal([at(2), at(0), at(2), at(0)], [0.6, 0.95, 0.6, 0.95])
})

test('adaptive thresholds can be written, and must be entropies in order', () => {
  const entropies = [0.1, 0.3, 0.6, 1.4, 1.6, 2.5, 1.4]
  const written = parseSchedule('adaptive:.95:.6:.25:1.5')
  const made = adaptive({ from: 0.95, to: 0.6, thresholds: { sure: 0.25, unsure: 1.5 } })
  assert.equal(follow(written, entropies), follow(made, entropies))
  assert.not.equal(follow(written, entropies), follow(parseSchedule('adaptive:.95:.6:2:2'), entropies))
  usage(() => adaptive({ from: 0.9, to: 0.6, thresholds: { sure: 2, unsure: 1 } }))
  usage(() => adaptive({ from: 0.9, to: 0.6, thresholds: { sure: -1, unsure: 1 } }))
  usage(() => adaptive({ from: 0.9, to: 0.6, thresholds: { sure: 1, unsure: Number.POSITIVE_INFINITY } }))
  usage(() => adaptive({ from: 0.9, to: 1.6 }))
})

test.run()
