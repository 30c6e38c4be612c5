import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { adaptiveCandidates } from '#lib/schedule/adaptive-search.js'
import {
  alongFront,
  bestWithin,
  budgetName,
  curvesOf,
  type LevelCurves,
  type LevelTrace,
  measureDownTo,
  measureWithin,
  paretoFront,
  predictedCost,
  scheduleCandidates,
} from '#lib/schedule/search.js'
import { levelOf, parseSchedule } from '#lib/schedule.js'
import { seeded } from './support/allocation.js'

const levels = [{ budget: 0.8987 }, { budget: 0.7994 }, { budget: 0.69991 }]

test('candidates are all families once, named so that they mean their levels', () => {
  const found = scheduleCandidates(levels, 0.9, 6)
  const names = found.map(({ schedule }) => schedule)
  assert.equal(names.slice(0, 3), ['full', 'constant:0.8', 'constant:0.7'])
  assert.is(new Set(found.map((candidate) => candidate.levels.join())).size, found.length, 'none twice')
  // All that fall once, at any step.
  for (let at = 2; at < 6; at++) assert.ok(names.includes(`step:0.9:0.7:${at}`), `${at} of ${names.join(' ')}`)
  const families = scheduleCandidates([...levels, { budget: 0.6 }, { budget: 0.5 }], 0.9, 40)
  for (const shape of ['full', 'constant', 'step', 'linear', 'cosine', 'exponential']) {
    assert.ok(
      families.some(({ schedule }) => schedule.startsWith(shape)),
      shape,
    )
  }
  for (const { schedule, levels: sequence } of found) {
    const at = parseSchedule(schedule)
    assert.is(sequence[0], 0, 'step 0 comes from prefill')
    for (let step = 1; step < 6; step++) {
      const context = { step, promptTokens: 9, entropy: 1, level: 0, levels }
      assert.is(sequence[step], levelOf(at(step, context), levels))
      assert.ok((sequence[step] ?? 0) >= (sequence[step - 1] ?? 0), 'no level rises again')
    }
  }
  const close = [{ budget: 0.90004 }, { budget: 0.90002 }]
  const [, second] = scheduleCandidates(close, 0.91, 2)
  assert.is(second?.schedule, 'constant:0.90002')
  const [, quarter] = scheduleCandidates([{ budget: 0.9 }, { budget: 0.7499 }], 0.9, 2)
  assert.is(quarter?.schedule, 'constant:0.75', 'not 0.8, which means it too')
  const atKeep = scheduleCandidates([{ budget: 0.85 }, { budget: 0.5 }], 0.85, 3)
  assert.ok(atKeep.some(({ schedule }) => schedule === 'step:0.85:0.5:2'))
})

const curves: LevelCurves = {
  levels: [{ budget: 0.9 }, { budget: 0.5 }],
  kl: [
    [0, 0, 0, 0],
    [0, 0.6, 0.3, 0.1],
  ],
  samples: [4, 4, 2, 1],
}

test('a prediction adds up what each level loses at each step, by the samples that reach it', () => {
  const cost = predictedCost({ schedule: '', levels: [0, 0, 1, 1] }, curves)
  assert.ok(Math.abs(cost.kl - (2 * 0.3 + 0.1) / 11) < 1e-15)
  assert.ok(Math.abs(cost.budget - (8 * 0.9 + 3 * 0.5) / 11) < 1e-15)
})

test('the front is what no other beats, and what is measured holds its ends and the best within the budget', () => {
  const points = [
    { name: 'a', budget: 0.5, kl: 3 },
    { name: 'b', budget: 0.6, kl: 3 },
    { name: 'c', budget: 0.6, kl: 2 },
    { name: 'd', budget: 0.7, kl: 2.5 },
    { name: 'e', budget: 0.8, kl: 1 },
    { name: 'f', budget: 0.8, kl: 1 },
    { name: 'g', budget: 0.9, kl: 0 },
  ]
  const names = (of: readonly { name: string }[]) => of.map(({ name }) => name).join('')
  assert.is(names(paretoFront(points)), 'aceg')
  assert.is(names(bestWithin(points, 0.7, 2)), 'cd')
  assert.is(names(bestWithin(points, 0.4, 2)), '')
  assert.is(names(alongFront(points, 2)), 'ag')
  assert.is(names(alongFront(points, 3)), 'acg')
  assert.is(names(alongFront(points.slice(0, 1), 3)), 'a')
})

test('where the best spend more than predicted, lower ones are measured', async () => {
  const points = Array.from({ length: 41 }, (_, i) => ({
    ...{ schedule: `s${i}`, levels: [], budget: 0.5 + i / 100, kl: 1 - i / 50 },
  }))
  const calls: string[][] = []
  const spending = (more: number) => (chosen: readonly (typeof points)[number][]) => {
    calls.push(chosen.map(({ schedule }) => schedule))
    return Promise.resolve(chosen.map((point) => ({ ...point, budget: point.budget + more })))
  }
  const close = await measureWithin(points, 0.7, spending(0))
  assert.is(calls.length, 1)
  assert.equal(calls[0]?.slice(0, 4), ['s20', 's19', 's18', 's17'])
  assert.ok(close.some(({ schedule }) => schedule === 's0') && close.some(({ schedule }) => schedule === 's40'))

  calls.length = 0
  const wasteful = await measureWithin(points, 0.7, spending(0.1))
  assert.equal(calls[1]?.[0], 's13', 'the cheapest of the four spends .07 too much')
  assert.ok(wasteful.some(({ schedule, budget }) => schedule === 's10' && budget <= 0.7 + 1e-9))
  assert.is(new Set(calls.flat()).size, calls.flat().length, 'none is measured twice')

  calls.length = 0
  await measureWithin(points, 0.5, spending(0.1))
  assert.ok(calls.length <= 4, 'it ends where none is low enough')
})

test('where the best spend less than predicted, higher ones are measured', async () => {
  const points = Array.from({ length: 41 }, (_, i) => ({
    ...{ schedule: `s${i}`, budget: 0.5 + i / 100, kl: 1 - i / 50 },
  }))
  const measured = await measureWithin(points, 0.7, (chosen) =>
    Promise.resolve(chosen.map((point) => ({ ...point, budget: point.budget - 0.1 }))),
  )
  assert.is(bestWithin(measured, 0.7, 1)[0]?.schedule, 's30')
})

test('the cheapest that is good enough is closed in on from both sides', async () => {
  // Level 0 is not on the front here, and is measured all the same.
  const points = [
    { schedule: 'full', budget: 1, kl: 0.5 },
    ...Array.from({ length: 200 }, (_, i) => ({ schedule: `s${i}`, budget: 0.5 + i / 500, kl: 2 - i / 100 })),
  ]
  const cheapestFrom = (bound: number) => (measured: readonly (typeof points)[number][]) =>
    measured
      .filter(({ schedule, budget }) => schedule === 'full' || budget >= bound)
      .reduce((best, point) => (point.budget < best.budget ? point : best))
  for (const bound of [0.5, 0.611, 0.7, 0.85, 0.95]) {
    const calls: string[] = []
    const cheapest = cheapestFrom(bound)
    const measured = await measureDownTo(points, cheapest, (chosen) => {
      calls.push(...chosen.map(({ schedule }) => schedule))
      return Promise.resolve([...chosen])
    })
    assert.ok(calls.includes('full'))
    assert.is(new Set(calls).size, calls.length, 'none is measured twice')
    assert.ok(calls.length <= 18, `${calls.length} measured`)
    const best = cheapest(points).budget
    assert.ok(cheapest(measured).budget - best <= 0.004 + 1e-9, `${cheapest(measured).budget} for ${bound}`)
  }
})

const random = seeded(5)
/** Traces of samples of 3 to 12 steps; entropies and losses differ by level. */
const traces: LevelTrace[] = Array.from({ length: 8 }, () => {
  const steps = 3 + Math.floor(10 * random())
  const curve = (scale: number) => Array.from({ length: steps }, () => scale * random())
  return { kl: [curve(0.1), curve(0.5), curve(1)], entropy: [curve(2), curve(2.5), curve(3)] }
})

test('curves are means over the samples that reach a step', () => {
  const { kl, samples } = curvesOf(levels, traces)
  assert.is(samples[0], traces.length)
  assert.is(samples.length, Math.max(...traces.map(({ kl: [first = []] }) => first.length)))
  for (const [step, count] of samples.entries()) {
    const reaching = traces.filter(({ kl: [first = []] }) => first.length > step)
    assert.is(count, reaching.length)
    for (const level of [0, 1, 2]) {
      const sum = reaching.reduce((total, trace) => total + (trace.kl[level]?.[step] ?? Number.NaN), 0)
      assert.ok(Math.abs((kl[level]?.[step] ?? 0) - sum / count) < 1e-12)
    }
  }
})

test('a name says no more than is kept, where fewer digits would', () => {
  assert.is(budgetName(0, [{ budget: 0.8049 }, { budget: 0.6 }], 0.805), '0.805')
})

test('adaptive candidates cost what their schedules take along the traces, with room between the thresholds', () => {
  const found = adaptiveCandidates(levels, 0.9, traces)
  assert.is(new Set(found.map(({ schedule }) => schedule)).size, found.length, 'none twice')
  for (const pair of ['0.9:0.8', '0.9:0.7', '0.8:0.7']) {
    assert.ok(found.filter(({ schedule }) => schedule.startsWith(`adaptive:${pair}:`)).length > 50, pair)
  }
  let held = 0
  for (const { schedule, budget, kl } of found) {
    const [sure = 0, unsure = 0] = schedule.split(':').slice(3).map(Number)
    assert.ok(sure < unsure, schedule)
    const at = parseSchedule(schedule)
    const [spent, lost]: [number[], number[]] = [[], []]
    for (const trace of traces) {
      let level = 0
      for (const step of trace.kl[0]?.keys() ?? []) {
        const entropy = trace.entropy[level]?.[step - 1] ?? Number.NaN
        if (entropy > sure && entropy < unsure) held++
        if (step > 0) level = levelOf(at(step, { step, promptTokens: 9, entropy, level, levels }), levels)
        spent.push(levels[level]?.budget ?? 0)
        lost.push(trace.kl[level]?.[step] ?? 0)
      }
    }
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    assert.ok(Math.abs(mean(spent) - budget) < 1e-12 && Math.abs(mean(lost) - kl) < 1e-12, schedule)
  }
  assert.ok(held > 1000)
})

test.run()
