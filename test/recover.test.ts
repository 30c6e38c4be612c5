import { spawnSync } from 'node:child_process'
import {
  closeSync,
  constants,
  existsSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { callNative } from '#lib/binding.js'
import { type Calibration, calibrate } from '#lib/calibrate.js'
import { calibrationWindows } from '#lib/calibration/windows.js'
import { OpenState, removeStates } from '#lib/checkpoint/state.js'
import { compress, evaluate, Model } from '#lib/index.js'
import { batchOf, heldOutOf, levelOf, rateAt, weightsOf } from '#lib/recover/schedule.js'
import { RecoveryState } from '#lib/recover/state.js'
import { type TrainingSettings, train } from '#lib/recover/training.js'
import { recoveryWindows } from '#lib/recover.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const seqLen = 128
const scratch = temporaryDirectory()
const budgets = [0.45, 0.3]

async function calibrated(threads: number): Promise<Calibration> {
  const model = await Model.load(tinyModel, { threads })
  return calibrate(model, { calibration: [text], samples: 16, seqLen })
}

const calibration = await calibrated(2)
const { windows } = await calibrationWindows(calibration.model, { calibration: [text], samples: 64, seqLen })
const options = { keep: 0.45, levels: budgets, calibration } as const
const small = await compress(calibration.model, options)
const levels = small.levels.map(({ ranks }) =>
  Int32Array.from(Object.values(ranks), (rank) => (rank === 'dense' ? -1 : rank)),
)

/** Trains a fresh cut of the same ranks. */
async function run(settings: Partial<TrainingSettings>, from = calibration) {
  const { dtype = 'bf16' } = settings
  const storage = settings.levels === 1 ? 'plain' : 'pivoted'
  const start = await from.factorize({ levels, storage, dtype: 'bf16' }, 0.45, {})
  const { parts, report } = await train(from.model, start, {
    ...{ windows, minutes: 1, steps: 4, batch: 2, dtype, levels: 2, seed: 3, memory: 2 ** 30 },
    scratch,
    ...settings,
  })
  return { model: new Model(parts), report }
}

const perplexity = async (model: Model, level: number) =>
  (await evaluate.perplexity(model, heldout, { seqLen, windows: 24, level })).perplexity

const schedule = suite('recovery: rates, batches and levels')

schedule('the rate rises for a tenth and falls to 0', () => {
  assert.equal([0, 0.05, 0.1, 1, 2].map(rateAt), [0, 0.5, 1, 0, 0])
  const rates = Array.from({ length: 19 }, (_, index) => rateAt(0.1 + index * 0.05))
  assert.ok(rates.every((rate, index) => index === 0 || rate < (rates[index - 1] ?? 0)))
})

schedule('an epoch goes through all windows once, in another order than the next', () => {
  const epoch = (number: number) =>
    Array.from({ length: 5 }, (_, index) => Array.from(batchOf(number * 5 + index, 3, 15, 7)))
  const [first, second] = [epoch(0), epoch(1)]
  for (const batches of [first, second]) {
    assert.equal(
      batches.flat().sort((a, b) => a - b),
      Array.from({ length: 15 }, (_, index) => index),
    )
  }
  assert.not.equal(first, second)
  assert.equal(epoch(0), first)
  assert.equal(Array.from(batchOf(3, 8, 2, 0)), [0, 1], 'a batch is at most all windows')
})

schedule('levels come as often as their weights say', () => {
  assert.equal(weightsOf(1), [1])
  assert.equal(weightsOf(3), [0.5, 0.25, 0.25])
  assert.equal(weightsOf(2, [1, 3]), [0.25, 0.75])
  const counts = [0, 0, 0]
  for (let step = 0; step < 4000; step++) {
    const level = levelOf(step, [0.5, 0.2, 0.3], 11)
    counts[level] = (counts[level] ?? 0) + 1
  }
  // Six standard deviations of a share of 4000 draws are below .05.
  for (const [level, share] of [0.5, 0.2, 0.3].entries()) {
    assert.ok(Math.abs((counts[level] ?? 0) / 4000 - share) < 0.05, `level ${level}: ${counts[level]}`)
  }
})

schedule('held-out windows are few, spread and end with the last', () => {
  assert.equal(Array.from(heldOutOf(2)), [1])
  assert.equal(Array.from(heldOutOf(64)), [15, 31, 47, 63])
  assert.equal(Array.from(heldOutOf(1000)).length, 4)
})

const training = suite('recovery: training')

training('lowers the divergence and the perplexity of unseen text at every level', async () => {
  const { model, report } = await run({ steps: 24, batch: 4 })
  assert.is(report.steps, 24)
  assert.is(report.tokens, 24 * 4 * seqLen)
  assert.is(report.windows + report.heldOut, windows.length)
  assert.is(report.curve[0]?.step, 0)
  assert.is(report.curve.at(-1)?.step, 24)
  for (const level of [0, 1]) {
    const before = report.curve[0]?.kl[level] ?? 0
    const after = report.best.kl[level] ?? 1
    assert.ok(after < 0.8 * before, `level ${level}: KL ${before} to ${after}`)
    const [cut, recovered] = [await perplexity(small, level), await perplexity(model, level)]
    assert.ok(recovered < 0.97 * cut, `level ${level}: perplexity ${cut} to ${recovered}`)
  }
  model.dispose()
})

training('plain factors and int4 are recovered too', async () => {
  for (const settings of [{ levels: 1 }, { dtype: 'int4' }] as const) {
    const { model, report } = await run({ ...settings, steps: 12, batch: 4 })
    const before = report.curve[0]?.kl[0] ?? 0
    assert.ok((report.best.kl[0] ?? 1) < 0.9 * before, `${JSON.stringify(settings)}: KL ${before}`)
    assert.is(model.dtype, settings.dtype ?? 'bf16')
    model.dispose()
  }
})

training('the same steps give the same model, at any thread count', async () => {
  const single = await calibrated(1)
  const runs = [await run({}), await run({}), await run({}, single)]
  const [first, ...others] = await Promise.all(
    runs.map(async ({ model, report }) => [report.curve.at(-1)?.kl, await perplexity(model, 0)]),
  )
  for (const other of others) assert.equal(other, first)
  const seeded = await run({ seed: 4 })
  assert.not.equal(seeded.report.curve.at(-1)?.kl, runs[0]?.report.curve.at(-1)?.kl)
})

training('an interrupted run goes on from its state as if never interrupted', async () => {
  const folder = temporaryDirectory()
  const state = { prefix: path.join(folder, '.out.recovery'), key: 'a', resume: true, interval: 0 }
  const whole = await run({ steps: 8 })
  const interrupt = new AbortController()
  const onProgress = ({ done }: { done: number }) => done === 5 && interrupt.abort()
  const interrupted = run({ steps: 8, state, signal: interrupt.signal, onProgress })
  await throwsFlrcError(() => interrupted, { code: 'E_ABORTED', within: 60_000 })
  const files = readdirSync(folder)
  assert.is(files.length, 1, files.join(' '))
  assert.match(files[0] ?? '', /^\.out\.recovery-[0-9a-f]{16}$/)

  const started: number[] = []
  const resumed = await run({ steps: 8, state, onProgress: ({ done }) => started.push(done) })
  assert.ok((started[0] ?? 0) > 0, `went on at step ${started[0]}`)
  assert.equal(resumed.report.curve.at(-1)?.kl, whole.report.curve.at(-1)?.kl)
  assert.is(resumed.report.tokens, whole.report.tokens)

  const fresh: number[] = []
  await run({ steps: 2, state: { ...state, resume: false }, onProgress: ({ done }) => fresh.push(done) })
  assert.is(fresh[0], 0, 'without resume it starts anew')
  writeFileSync(path.join(folder, files[0] ?? ''), 'FLRCSTA1 and then nothing of use')
  const damaged = path.join(folder, files[0] ?? '')
  await throwsFlrcError(() => run({ steps: 8, state }), {
    code: 'E_MODEL_FORMAT',
    file: damaged,
    within: 60_000,
  })
  await removeStates(state.prefix)
  assert.equal(readdirSync(folder), [])
})

/** A state that nothing keeps, and the recovery of a fresh cut. */
async function opened(signal?: AbortSignal) {
  const start = await calibration.factorize({ levels, storage: 'pivoted', dtype: 'bf16' }, 0.45, {})
  const native = { windows, dtype: 'bf16', memory: 2 ** 30, scratch } as const
  const options = { prefix: path.join(temporaryDirectory(), '.out.recovery'), key: 'a', resume: true }
  const state = await RecoveryState.open(options, signal)
  const handle = await calibration.model.createRecovery(start.native, native, signal)
  return { options, state, handle }
}

training('an aborted save holds the lock for as long as it may write', async () => {
  if (process.platform === 'win32')
    return console.log('skipped: a save that cannot go on, which takes a named pipe of POSIX')
  const interrupt = new AbortController()
  const { options, state, handle } = await opened(interrupt.signal)
  // Opening it to write waits until it is opened to read, here by its other name, as the first is removed.
  const [part, other] = [`${state.file}.part`, `${state.file}.pipe`]
  assert.is(spawnSync('mkfifo', [part]).status, 0)
  linkSync(part, other)
  const saving = state.save(handle, {})
  interrupt.abort()
  await throwsFlrcError(() => saving, { code: 'E_ABORTED' })
  handle.dispose()
  state.release()
  const lock = callNative((addon) => addon.lockFile(`${state.file}.lock`))
  const reader = openSync(other, constants.O_RDONLY | constants.O_NONBLOCK)
  assert.is(lock, null)
  ;(await OpenState.open(options)).release()
  closeSync(reader)
})

training('a run that does not get the state holds no memory: it has made nothing yet', async () => {
  const { options, state, handle } = await opened()
  handle.dispose()
  const model = Object.create(calibration.model, {
    createRecovery: { value: () => assert.unreachable('made before the lock is held') },
  })
  const start = await calibration.factorize({ levels, storage: 'pivoted', dtype: 'bf16' }, 0.45, {})
  const settings = { windows, minutes: 1, dtype: 'bf16', levels: 2, seed: 3, memory: 2 ** 30, scratch } as const
  await throwsFlrcError(() => train(model, start, { ...settings, state: options }), {
    code: 'E_BUSY',
    within: 60_000,
  })
  state.release()
  await throwsFlrcError(
    () =>
      calibration.model.createRecovery(
        start.native,
        { windows, dtype: 'bf16', memory: 2 ** 30, scratch },
        undefined,
      ),
    { code: 'E_DISPOSED' },
  )
})

training('a step that leaves the range of numbers is E_NUMERIC with a remedy', async () => {
  const start = await calibration.factorize({ levels, storage: 'pivoted', dtype: 'bf16' }, 0.45, {})
  const native = { windows, dtype: 'bf16', memory: 2 ** 30, scratch } as const
  const handle = await calibration.model.createRecovery(start.native, native, undefined)
  const step = { windows: Int32Array.of(0, 1), level: 0, beta1: 0.9, beta2: 0.99, rate: 1e30, change: 1e30 }
  await throwsFlrcError(
    async () => {
      await handle.step(step)
      await handle.step(step)
    },
    { code: 'E_NUMERIC', message: /compress without it|try f32/, within: 60_000 },
  )
  handle.dispose()
  await throwsFlrcError(() => handle.step(step), { code: 'E_DISPOSED' })
})

training('removing states takes what a killed run half wrote, and leaves what another run has', async () => {
  const folder = temporaryDirectory()
  const hash = '0123456789abcdef'
  const state = await OpenState.open({ prefix: path.join(folder, 'held'), key: 'a', resume: true })
  const held = `${state.path}.77.tmp`
  const other = path.join(folder, `s-${hash}.tmp`)
  for (const file of [`${hash}`, `${hash}.part`, `${hash}.4711.tmp`])
    writeFileSync(path.join(folder, `s-${file}`), '')
  for (const file of [held, other]) writeFileSync(file, '')
  for (const prefix of ['s', 'held']) await removeStates(path.join(folder, prefix))
  assert.equal(
    readdirSync(folder).sort(),
    [held, `${state.path}.lock`, other].map((file) => path.basename(file)),
  )
  state.release()
})

training('the state of a directory that cannot be written is E_IO', async () => {
  const prefix = path.join(temporaryDirectory(), 'file', 'state')
  writeFileSync(path.dirname(prefix), '')
  const state = { prefix, key: 'a', resume: false, interval: 0 }
  await throwsFlrcError(() => run({ state }), { code: 'E_IO', within: 60_000 })
})

const compression = suite('recovery: compress')

compression('recovers for the time given and says how', async () => {
  const told: { done: number; total: number }[] = []
  const model = await compress(calibration.model, {
    ...options,
    recover: { minutes: 0.05, calibration: [text] },
    onProgress: ({ stage, done, total }) => stage === 'recover' && told.push({ done, total }),
  })
  assert.ok(
    told.length > 1 && told.every(({ done, total }) => Number.isInteger(done) && Number.isInteger(total)),
  )
  assert.ok(told.every(({ done, total }) => done <= total) && told.at(-1)?.done === told.at(-1)?.total)
  const recovery = model.report?.recovery
  assert.ok(recovery)
  assert.equal(model.plan?.recovery, recovery)
  assert.ok(recovery.minutes > 0.03 && recovery.minutes < 0.5, `took ${recovery.minutes} minutes`)
  assert.ok(recovery.steps > 0)
  for (const level of [0, 1]) {
    const before = recovery.curve[0]?.kl[level] ?? 0
    assert.ok((recovery.best.kl[level] ?? 1) < before, `level ${level}: KL ${before}`)
  }
  assert.equal(
    model.levels.map(({ ranks }) => ranks),
    small.levels.map(({ ranks }) => ranks),
  )
  assert.ok((model.report?.seconds.recover ?? 0) > 1)
  const whole = await compress(calibration.model, { keep: 1, calibration, recover: 1 })
  assert.is(whole.report?.recovery, undefined, 'nothing is factored, so there is nothing to train')
})

compression(
  "a calibration at hand, and text of the model itself, train on the calibration's own windows",
  async () => {
    const own = await recoveryWindows(calibration, undefined, {})
    assert.equal(
      own.map((window) => Array.from(window)),
      calibration.windows.map((window) => Array.from(window)),
    )
    assert.equal(await recoveryWindows(calibration, [{ self: true }, text], {}), own)
    const uneven = [new Int32Array(seqLen * 2 + 5), new Int32Array(7)]
    const long = Object.create(calibration, { windows: { value: uneven } }) as Calibration
    const pieces = await recoveryWindows(long, undefined, {})
    assert.equal(
      pieces.map((window) => window.length),
      [seqLen, seqLen, 7],
    )
  },
)

compression('what cannot be used is refused', async () => {
  const { model } = calibration
  for (const recover of [0, -1, Number.NaN, { minutes: 0 }]) {
    await throwsFlrcError(() => compress(model, { ...options, recover }), { code: 'E_USAGE' })
  }
  const one = { minutes: 1, calibration: [windows[0] ?? new Int32Array()] }
  await throwsFlrcError(() => compress(model, { ...options, recover: one }), { code: 'E_CALIBRATION' })
})

compression('the command recovers, leaves no state behind, and goes on from none', async () => {
  const folder = temporaryDirectory()
  const common = ['compress', tinyModel, '-o', 'out', '--keep', '.5', '--samples', '8', '--seq-len', '64']
  const from = ['--calibration', path.join(tinyModel, 'calibration.txt'), '--json']
  const ended = await runCli([...common, ...from, '--recover', '.05', '--resume'], {
    cwd: folder,
    seconds: 120,
  })
  assert.is(ended.code, 0, ended.stderr)
  const { recovery } = JSON.parse(ended.stdout) as { recovery: { curve: unknown[] } }
  assert.ok(recovery.curve.length >= 2)
  assert.equal(readdirSync(folder), ['out'])
  const plan = JSON.parse(readFileSync(path.join(folder, 'out', 'flrc-plan.json'), 'utf8')) as {
    recovery: unknown
  }
  assert.equal(plan.recovery, recovery)
  assert.ok(existsSync(path.join(folder, 'out', 'model.safetensors')))
})

for (const tests of [schedule, training, compression]) tests.run()
