import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { abortedError, FlrcError } from '#lib/errors.js'
import { calibrate, Model } from '#lib/index.js'
import type { RecoveryHandle } from '#lib/recover/handle.js'
import { type TrainingSettings, train } from '#lib/recover/training.js'
import { tinyModel } from './support/child.js'
import { rejects } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const model = await Model.load(tinyModel)
const calibration = await calibrate(model, { calibration: [text], samples: 2, seqLen: 64, curves: false })
const { windows } = calibration
const ranks = (share: number) =>
  Int32Array.from(model.projections, ({ rows, cols }) => Math.floor(share * Math.min(rows, cols)))
const cut = { levels: [ranks(0.5), ranks(0.25)], storage: 'pivoted' as const, dtype: 'bf16' as const }
const startOf = (levels: Int32Array[]) => calibration.factorize({ ...cut, levels }, 0.5, {})

/** The model, with what is told in the place of its training. */
function trained(handle: Partial<RecoveryHandle>): Model {
  const done = async () => undefined
  const made = { step: done, keep: done, finish: done, dispose: () => undefined, ...handle }
  return Object.create(model, { createRecovery: { value: async () => made } }) as Model
}

/** Evaluations that find these divergences of the levels, one after another. */
function finding(...points: number[][]): Pick<RecoveryHandle, 'evaluate'> {
  const left = points.flat()
  return { evaluate: async () => ({ kl: left.shift() ?? Number.NaN, loss: 1 }) as never }
}

async function run(handle: Partial<RecoveryHandle>, settings: Partial<TrainingSettings> = {}) {
  const { report } = await train(trained(handle), await startOf(cut.levels.slice(0, settings.levels ?? 2)), {
    ...{ windows, minutes: 1, steps: 4, batch: 1, dtype: 'bf16', levels: 2, seed: 3, memory: 2 ** 30 },
    scratch: '',
    ...settings,
  })
  return report
}

test('the best factors are those of the least divergence by the levels’ weights', async () => {
  const measured = [
    [1, 1],
    [1.2, 0.5],
  ]
  // After a single step nothing but the end is evaluated, however long it took.
  assert.is((await run(finding(...measured), { steps: 1, levelWeights: [9, 1] })).best.step, 0)
  assert.is((await run(finding(...measured), { steps: 1, levelWeights: [1, 1] })).best.step, 1)
})

test('a run that fails leaves none of its memory held', async () => {
  let disposed = 0
  const step = () => Promise.reject(new FlrcError('E_NUMERIC', 'a weight is NaN'))
  await rejects(run({ ...finding([1, 1]), step, dispose: () => disposed++ }), 'E_NUMERIC')
  assert.is(disposed, 1)
})

test('a run that goes on knows the best factors so far, and how long was trained', async () => {
  const prefix = path.join(temporaryDirectory(), 'state')
  const state = { prefix, key: 'a', resume: true, interval: 0 }
  const { now } = performance
  const save = async (file: string, note: string) => writeFileSync(file, note)
  const load = async (file: string) => readFileSync(file, 'utf8')
  let steps = 0
  try {
    const step = async () => {
      if (steps++ > 0) throw abortedError()
      performance.now = () => now.call(performance) + 60_000
      return undefined as never
    }
    await rejects(run({ ...finding([1]), step, save }, { levels: 1, state }), 'E_ABORTED')
  } finally {
    performance.now = now
  }
  const { best, minutes } = await run({ ...finding([2]), save, load }, { levels: 1, state })
  assert.is(best.step, 0)
  assert.ok(minutes >= 1, `${minutes}`)
})

test.run()
