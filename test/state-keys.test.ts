import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type Calibration, calibrate, Model, type SensitivityOptions, sensitivitySearch } from '#lib/index.js'
import { type RecoveredCut, recover } from '#lib/recover.js'
import { tinyModel } from './support/child.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const looks = { calibration: [text], samples: 2, seqLen: 64 }
const model = await Model.load(tinyModel)
const calibration = await calibrate(model, { ...looks, curves: false })
const folder = temporaryDirectory()

/** The object, whose long work ends at once with the name of the state that is open then. */
function idle<T extends object>(of: T, method: keyof T): T {
  const open = () => readdirSync(folder).find((name) => /^state-[0-9a-f]{16}\.lock$/.test(name))
  return Object.create(of, { [method]: { value: () => Promise.reject(new Error(open())) } }) as T
}

/** How many states the runs have among them. */
async function statesOf(runs: readonly ((state: string) => Promise<unknown>)[]): Promise<number> {
  const states = new Set<string>()
  for (const run of runs) {
    try {
      await run(path.join(folder, 'state'))
    } catch (error) {
      states.add((error as Error).message)
    }
  }
  return states.size
}

const keys = suite('states are of one work alone')

keys('a calibration: another whitening, shrinkage, type of weights, or curves or none', async () => {
  const wide = await Model.load(tinyModel, { dtype: 'f32' })
  const others = [
    ...[{}, { shrinkage: { inputs: 0 } }, { curves: false }],
    { whitening: 'none' as const, shrinkage: calibration.options.shrinkage },
  ]
  const runs = [...others.map((other) => ({ of: model, other })), { of: wide, other: {} }].map(
    ({ of, other }) =>
      (state: string) =>
        calibrate(idle(of, 'calibrate'), { ...looks, state, resume: true, ...other }),
  )
  assert.is(await statesOf(runs), 5)
  wide.dispose()
})

keys('a sensitivity search: other windows, storage or projections', async () => {
  const others: SensitivityOptions[] = [{}, { windows: 2 }, { storage: 'plain' }, { projections: [1] }]
  const runs = others.map((other) => (state: string) => {
    const options = { projections: [0], windows: 1, state, resume: true, ...other }
    return sensitivitySearch(idle(calibration, 'cutLosses'), options)
  })
  assert.is(await statesOf(runs), 4)
})

keys('a recovery: another time, storage, type, weighting of levels or cut', async () => {
  const ranks = (share: number) =>
    Int32Array.from(model.projections, ({ rows, cols }) => Math.floor(share * Math.min(rows, cols)))
  const cut = { levels: [ranks(0.5), ranks(0.25)], storage: 'pivoted' as const, dtype: 'bf16' as const }
  const whole = { value: idle(model, 'createRecovery') }
  const from = Object.create(calibration, { whole }) as Calibration
  const others: (Partial<RecoveredCut> & { minutes?: number })[] = [
    ...[{}, { minutes: 2 }, { storage: 'plain' as const }, { dtype: 'int8' as const }],
    ...[{ levelWeights: [1, 3] }, { levels: [ranks(0.5), ranks(0.1)] }],
  ]
  const runs = others.map(({ minutes = 1, ...other }) => async (state: string) => {
    const start = await calibration.factorize(cut, 0.5, {})
    const options = { minutes, state, resume: true }
    return recover(from, start, calibration.windows, options, { ...cut, ...other }, {})
  })
  assert.is(await statesOf(runs), 6)
})

keys.run()
