import { type ChildProcess, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { sensitivityRatios } from '#lib/allocate.js'
import { OpenState, removeStates } from '#lib/checkpoint/state.js'
import {
  type CalibrateOptions,
  type Calibration,
  type CompressOptions,
  calibrate,
  compress,
  Model,
} from '#lib/index.js'
import { cli, runCli, runModule, tinyModel } from './support/child.js'
import { type ExpectedError, throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const looks = { calibration: [text], samples: 8, seqLen: 64, inputMoments: true }
const layers = 6
const model = await Model.load(tinyModel, { threads: 2 })

/** Everything of a calibration that decides what is cut from it. */
const found = ({ scores, curves, figures, options, hashes }: Calibration) => ({
  ...{ scores, curves, options, hashes, singular: figures.singular },
  ...{ meanLoss: figures.meanLoss, lossTokens: figures.lossTokens },
})

const whole = await calibrate(model, looks)
const folder = temporaryDirectory()
let places = 0
/** A new folder within it. */
function newFolder(): string {
  const place = path.join(folder, String(places++))
  mkdirSync(place)
  return place
}
await whole.save(path.join(folder, 'whole'))
const bytesOf = (directory: string) => readFileSync(path.join(directory, 'calibration.safetensors'))
const wholeBytes = bytesOf(path.join(folder, 'whole'))

async function assertWhole(calibration: Calibration): Promise<void> {
  assert.equal(found(calibration), found(whole))
  const out = path.join(newFolder(), 'out')
  await calibration.save(out)
  assert.ok(bytesOf(out).equals(wholeBytes), 'factors and moments')
}

/** A state as it is after the third of the layers: of 5, 4 and 3. */
async function interrupted(options: Partial<CalibrateOptions> = {}): Promise<string> {
  const state = path.join(newFolder(), '.out.calibration')
  const interrupt = new AbortController()
  const onProgress = ({ done }: { done: number }) => done >= layers + 9 && interrupt.abort()
  const run = calibrate(model, { ...looks, state, ...options, signal: interrupt.signal, onProgress })
  await throwsFlrcError(() => run, { code: 'E_ABORTED' })
  return state
}

function folderOf(state: string): string {
  // Aborted work holds its lock until it has seen that.
  const [name, ...others] = readdirSync(path.dirname(state)).filter((entry) => !entry.endsWith('.lock'))
  assert.equal(others, [])
  assert.match(name ?? '', /^\.out\.calibration-[0-9a-f]{16}$/)
  return path.join(path.dirname(state), name ?? '')
}

/** Which layers are kept. The native side may have gone on until it saw that it was to end. */
const keptIn = (directory: string) => readdirSync(directory).filter((name) => /^layer-\d$/.test(name))

/** The same weights, read otherwise. */
function withOtherConfig(): string {
  const directory = newFolder()
  cpSync(tinyModel, directory, { recursive: true })
  const file = path.join(directory, 'config.json')
  const config = JSON.parse(readFileSync(file, 'utf8'))
  writeFileSync(file, JSON.stringify({ ...config, rope_theta: 20_000 }))
  return directory
}

const resuming = suite('resume: calibrate')

resuming('goes on below the last finished layer, to the same values', async () => {
  const state = await interrupted()
  const directory = folderOf(state)
  const kept = keptIn(directory)
  assert.ok(kept.length >= 1 && kept.length < layers, kept.join(' '))
  const times = kept.map((name) => statSync(path.join(directory, name)).mtimeMs)
  writeFileSync(path.join(directory, 'layer-0.part'), 'of a killed run')
  const first: number[] = []
  const onProgress = ({ stage, done }: { stage: string; done: number }) =>
    stage === 'calibrate' && done > layers && first.push(done)
  const resumed = await calibrate(model, { ...looks, state, resume: true, onProgress })
  await assertWhole(resumed)
  assert.equal(
    kept.map((name) => statSync(path.join(directory, name)).mtimeMs),
    times,
    'kept layers are not made again',
  )
  assert.is(readdirSync(directory).length, layers + 1, readdirSync(directory).join(' '))
  assert.ok(resumed.figures.seconds.backward > 0)
  // Nothing is left to compute, and in a tight memory what is read goes to scratch files.
  await assertWhole(await calibrate(model, { ...looks, state, resume: true, memory: 1 }))
  await removeStates(state)
  assert.equal(readdirSync(path.dirname(state)), [])
})

resuming('without resume, and for other inputs or options, it starts anew', async () => {
  const state = await interrupted()
  const directory = folderOf(state)
  const [kept = ''] = keptIn(directory)
  truncateSync(path.join(directory, kept), 10)
  for (const other of [{ seed: 1 }, { labels: 'data' }, { samples: 7 }, { inputMoments: false }] as const) {
    ;(await calibrate(model, { ...looks, state, resume: true, ...other })).dispose()
  }
  const edited = await Model.load(withOtherConfig(), { threads: 2 })
  ;(await calibrate(edited, { ...looks, state, resume: true })).dispose()
  edited.dispose()
  assert.is(readdirSync(path.dirname(state)).length, 6)
  await assertWhole(await calibrate(model, { ...looks, state }))
  assert.is(keptIn(directory).length, layers)
  await removeStates(state)
  assert.equal(readdirSync(path.dirname(state)), [])
})

const damage: [what: string, how: (directory: string) => void, expected: Omit<ExpectedError, 'file'>][] = [
  [
    'a layer that is cut',
    (directory) => truncateSync(path.join(directory, 'layer-5'), 1000),
    {
      code: 'E_MODEL_FORMAT',
      message: /layer-5 is damaged.*remove .*calibration-[0-9a-f]{16}, or run again without --resume/,
    },
  ],
  [
    'a byte that is another',
    (directory) => {
      const at = path.join(directory, 'layer-5')
      const bytes = readFileSync(at)
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
      writeFileSync(at, bytes)
    },
    { code: 'E_MODEL_FORMAT', message: /layer-5/ },
  ],
  [
    'gradients that are gone',
    (directory) => {
      for (const name of readdirSync(directory)) {
        if (name.startsWith('below')) rmSync(path.join(directory, name))
      }
    },
    { code: 'E_IO', message: /below-\d cannot be opened/ },
  ],
]
for (const [what, how, expected] of damage) {
  resuming(`${what}: ${expected.code}, until the state is removed`, async () => {
    const state = await interrupted()
    how(folderOf(state))
    await throwsFlrcError(() => calibrate(model, { ...looks, state, resume: true }), expected)
    await removeStates(state)
    await assertWhole(await calibrate(model, { ...looks, state, resume: true }))
  })
}

resuming('a place where nothing can be kept: E_IO, before the work', async () => {
  const state = path.join(newFolder(), 'file', 'state')
  writeFileSync(path.dirname(state), '')
  await throwsFlrcError(() => calibrate(model, { ...looks, state }), { code: 'E_IO' })
})

const locking = suite('resume: one run at a time')

locking('a state that one has, another is told of, and may have it afterwards', async () => {
  const prefix = path.join(newFolder(), '.out.calibration')
  const options = { prefix, key: 'all that decides', resume: true }
  const held = await OpenState.open(options)
  writeFileSync(held.path, 'kept')
  await throwsFlrcError(() => OpenState.open(options), {
    ...{ code: 'E_BUSY', file: held.path, message: /another run is at this very work.*wait for it/ },
    within: 20_000,
  })
  const interrupt = new AbortController()
  const waiting = OpenState.open(options, interrupt.signal)
  interrupt.abort()
  await throwsFlrcError(() => waiting, { code: 'E_ABORTED' })
  await removeStates(prefix)
  assert.is(readFileSync(held.path, 'utf8'), 'kept', 'whoever is done leaves what another run has')
  const other = await OpenState.open({ ...options, key: 'something else' })
  const next = OpenState.open(options)
  held.release()
  ;(await next).release()
  other.release()
  assert.equal(readdirSync(path.dirname(prefix)), [path.basename(held.path)])
  await removeStates(prefix)
  assert.equal(readdirSync(path.dirname(prefix)), [])
})

locking('of a run that is killed nothing is left that would hold up the next', async () => {
  const prefix = path.join(newFolder(), 'state')
  const source = `
    import { OpenState } from '#lib/checkpoint/state.js'
    await OpenState.open({ prefix: ${JSON.stringify(prefix)}, key: 1, resume: true })
    console.log('open')
    setInterval(() => undefined, 1000)`
  const onStart = (child: ChildProcess) => child.stdout?.on('data', () => child.kill('SIGKILL'))
  assert.is((await runModule(source, { onStart })).signal, 'SIGKILL')
  assert.is(readdirSync(path.dirname(prefix)).length, 1, 'the lock itself, which nobody holds')
  const begin = performance.now()
  ;(await OpenState.open({ prefix, key: 1, resume: true })).release()
  assert.ok(performance.now() - begin < 2000)
})

locking('two calibrations at once: each has all of it', async () => {
  const state = path.join(newFolder(), '.out.calibration')
  const run = () => calibrate(model, { ...looks, state, resume: true })
  const twice = await Promise.allSettled([run(), run()])
  for (const one of twice) {
    if (one.status === 'fulfilled') await assertWhole(one.value)
  }
  assert.ok(twice.some(({ status }) => status === 'fulfilled'))
  // On a busy machine the one takes longer than the other waits, which is then to come back when that is done.
  for (const one of twice) {
    if (one.status === 'fulfilled') continue
    assert.is(one.reason.code, 'E_BUSY', one.reason)
    await assertWhole(await run())
  }
  await removeStates(state)
  assert.equal(readdirSync(path.dirname(state)), [])
})

const searching = suite('resume: the search of method asvd')

searching('goes on after the last projection that is measured, to the same losses', async () => {
  const state = path.join(newFolder(), '.out.calibration')
  const options = { keep: 0.7, method: 'asvd', calibration: whole, state, resume: true } as const
  const losses = async (more: Partial<CompressOptions> = {}) => {
    const begun: number[] = []
    const onProgress = ({ stage, done }: { stage: string; done: number }) =>
      stage === 'search' && begun.push(done)
    whole.sensitivities.clear()
    const small = await compress(model, { ...options, onProgress, ...more })
    small.dispose()
    return { found: small.plan?.sensitivity?.losses, begun: begun[0] }
  }
  const expected = await losses({ state: undefined })
  const interrupt = new AbortController()
  const onProgress = ({ stage, done }: { stage: string; done: number }) =>
    stage === 'search' && done >= 5 * sensitivityRatios.length && interrupt.abort()
  whole.sensitivities.clear()
  const run = compress(model, { ...options, signal: interrupt.signal, onProgress })
  await throwsFlrcError(() => run, { code: 'E_ABORTED', within: 60_000 })
  const resumed = await losses()
  assert.equal(resumed.found, expected.found)
  assert.is(expected.begun, 0)
  assert.ok((resumed.begun ?? 0) >= 4 * sensitivityRatios.length, `went on at ${resumed.begun}`)

  const file = folderOf(state)
  const text = readFileSync(file, 'utf8')
  for (const damaged of [text.slice(0, 99), text.replace('"losses":[', '"losses":[1')]) {
    writeFileSync(file, damaged)
    whole.sensitivities.clear()
    await throwsFlrcError(() => compress(model, options), {
      ...{ code: 'E_MODEL_FORMAT', file, message: /is damaged; remove it, or run again without --resume/ },
    })
  }
  assert.equal((await losses({ resume: false })).found, expected.found)
  await removeStates(state)
  assert.equal(readdirSync(path.dirname(state)), [])
})

const commands = suite('resume: the command line')

const common = ['--calibration', path.join(tinyModel, 'calibration.txt'), '--samples', '48', '--seq-len', '256']
const names = ['model.safetensors', 'config.json', 'flrc-plan.json']

/** Kills the child with its state in the making, once a layer is kept; which layers there are. */
function killWhen(directory: string, layer: string, kept: string[]) {
  return (child: ChildProcess) => {
    const look = setInterval(() => {
      const [state] = existsSync(directory)
        ? readdirSync(directory).filter((name) => /calibration-[0-9a-f]{16}$/.test(name))
        : []
      if (state === undefined || !existsSync(path.join(directory, state, layer))) return
      child.kill('SIGKILL')
      clearInterval(look)
    }, 1)
    child.on('exit', () => {
      clearInterval(look)
      for (const name of readdirSync(directory).filter((entry) => /calibration-[0-9a-f]{16}$/.test(entry))) {
        kept.push(...keptIn(path.join(directory, name)))
      }
    })
  }
}

for (const [title, command, last] of [
  ['compress', ['compress', tinyModel, '-o', 'out', '--keep', '.7', '--levels', '.7,.5'], names],
  ['calibrate', ['calibrate', tinyModel, '-o', 'out'], ['calibration.safetensors']],
] as const) {
  commands(`a ${title} that is killed goes on to the same bytes, however often`, async () => {
    const directory = newFolder()
    const run = (output: string, more: string[], onStart?: (child: ChildProcess) => void) => {
      const args = command.map((word) => (word === 'out' ? output : word))
      return runCli([...args, ...common, ...more, '--json'], { cwd: directory, seconds: 120, onStart })
    }
    assert.is((await run('uninterrupted', [])).code, 0)
    for (const layer of ['layer-5', 'layer-2']) {
      const kept: string[] = []
      const killed = await run('out', ['--resume'], killWhen(directory, layer, kept))
      assert.is(killed.signal, 'SIGKILL', killed.stderr)
      assert.ok(kept.includes(layer) && kept.length < layers, kept.join(' '))
      assert.not.ok(existsSync(path.join(directory, 'out')))
    }
    const ended = await run('out', ['--resume'])
    assert.is(ended.code, 0, ended.stderr)
    for (const name of last) {
      const [one, two] = ['uninterrupted', 'out'].map((output) =>
        readFileSync(path.join(directory, output, name)),
      )
      assert.ok(one && two && one.equals(two), name)
    }
    assert.equal(readdirSync(directory).sort(), ['out', 'uninterrupted'], 'the state is removed')
  })
}

commands('a disk that is full: E_IO with a remedy, and nothing half written', async () => {
  if (process.platform === 'win32')
    return console.log('skipped: a full disk, which takes a limit of POSIX shells')
  const directory = newFolder()
  for (const [more, message] of [
    [['--resume'], /E_IO: .*below-5.part cannot be written: .*; free some space/],
    [[], /E_IO: .*choose another disk/],
  ] as const) {
    const words = ['calibrate', tinyModel, '-o', 'out', ...common, ...more].map((word) => `'${word}'`)
    // No file may grow beyond a megabyte.
    const script = `ulimit -f 1024; exec '${process.execPath}' '${cli}' ${words.join(' ')}`
    const ended = spawnSync('bash', ['-c', script], { cwd: directory, encoding: 'utf8' })
    assert.is(ended.status, 1, ended.stderr)
    assert.match(ended.stderr, message)
    const left = readdirSync(directory)
    assert.ok(left.every((name) => /^\.out\.calibration-/.test(name)))
    for (const name of left) assert.equal(readdirSync(path.join(directory, name)), [])
  }
})

commands('a run without --resume keeps nothing, and removes what an earlier one left', async () => {
  const directory = newFolder()
  const state = path.join(directory, '.out.calibration-0123456789abcdef')
  mkdirSync(state)
  writeFileSync(path.join(state, 'layer-5'), 'of other options')
  cpSync(state, path.join(directory, '.out.calibration-mine'), { recursive: true })
  const args = ['compress', tinyModel, '-o', 'out', '--keep', '.7', '--samples', '2', '--seq-len', '64']
  const ended = await runCli([...args, ...common.slice(0, 2)], { cwd: directory })
  assert.is(ended.code, 0, ended.stderr)
  assert.equal(readdirSync(directory).sort(), ['.out.calibration-mine', 'out'])
})

commands('what calibrate wrote is what compress takes, and no other options beside it', async () => {
  const directory = newFolder()
  const short = [...common.slice(0, 2), '--samples', '8', '--seq-len', '64']
  const run = async (args: string[]) => runCli([...args, '--json'], { cwd: directory, seconds: 120 })
  const made = await run(['calibrate', tinyModel, '-o', 'cal', ...short])
  assert.is(made.code, 0, made.stderr)
  const result = JSON.parse(made.stdout) as Record<string, unknown> & { seconds: Record<string, number> }
  const { samples, seqLen, tokens, heldOut, whitening, inputMoments } = result
  assert.equal(
    { samples, seqLen, tokens, heldOut, whitening, inputMoments },
    { samples: 8, seqLen: 64, tokens: 512, heldOut: 1, whitening: 'two-sided', inputMoments: true },
  )
  assert.ok((result.meanLoss as number) > 0 && (result.bytes as number) > 1e6)
  assert.equal(
    Object.keys(result.scores as object),
    model.projections.map(({ name }) => name),
  )
  assert.equal(Object.keys(result.seconds), ['load', 'calibrate', 'factorize', 'curves', 'save', 'total'])

  const keep = ['compress', tinyModel, '--keep', '.8', '--dtype', 'int4']
  assert.is((await run([...keep, '-o', 'own', ...short])).code, 0)
  assert.is((await run([...keep, '-o', 'from', '--calibration', 'cal', '--samples', '8'])).code, 0)
  for (const name of names) {
    const [one, two] = ['own', 'from'].map((output) => readFileSync(path.join(directory, output, name)))
    assert.ok(one && two && one.equals(two), name)
  }
  const refused: [string[], number, RegExp][] = [
    [['--samples', '9'], 2, /E_USAGE: the calibration has samples 8, and 9 is asked for/],
    [['--method', 'asvd'], 2, /E_USAGE: method asvd goes with --whitening scaled/],
    [['--dtype', 'f32'], 2, /E_USAGE: cal: .*held in bf16.*--dtype f32/],
  ]
  for (const [more, code, message] of refused) {
    const ended = await run([
      'compress',
      tinyModel,
      '--keep',
      '.8',
      '-o',
      'no',
      '--calibration',
      'cal',
      ...more,
    ])
    assert.is(ended.code, code)
    assert.match(ended.stderr, message)
  }
  mkdirSync(path.join(directory, 'self')) // not what `self` means
  const beside = await run([...keep, '-o', 'no', '--calibration', 'self', 'cal'])
  assert.is(beside.code, 2)
  assert.match(beside.stderr, /cal is a calibration, and 1 source is given beside it; give it alone/)
  const taken = await run(['calibrate', tinyModel, '-o', 'own', '--overwrite', ...short])
  assert.is(taken.code, 1)
  assert.match(taken.stderr, /E_EXISTS: own: holds no calibration/)
  assert.equal(readdirSync(directory).sort(), ['cal', 'from', 'own', 'self'])
})

commands('a recovery goes on after a calibration that is kept', async () => {
  const directory = newFolder()
  const state = path.join(directory, '.out.calibration')
  const interrupt = new AbortController()
  const options = { ...looks, keep: 0.5, state, resume: true, signal: interrupt.signal }
  const recover = { minutes: 10, state: path.join(directory, '.out.recovery'), resume: true }
  const onProgress = ({ stage }: { stage: string }) => stage === 'recover' && interrupt.abort()
  await throwsFlrcError(() => compress(model, { ...options, recover, onProgress }), {
    code: 'E_ABORTED',
    within: 60_000,
  })
  const stages: [string, number][] = []
  const small = await compress(model, {
    ...{ ...options, signal: undefined, recover: { ...recover, minutes: 0.01 } },
    onProgress: ({ stage, done }) => stages.push([stage, done]),
  })
  assert.ok((small.report?.recovery?.steps ?? 0) > 0)
  small.dispose()
  const calibrating = stages.filter(([stage]) => stage === 'calibrate').map(([, done]) => done)
  assert.ok(Math.min(...calibrating) > layers, 'no forward pass, all layers are kept')
})

for (const tests of [resuming, locking, searching, commands]) tests.run()
