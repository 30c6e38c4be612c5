import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { UsedSource } from '#lib/calibration/sources.js'
import { sameWindows } from '#lib/calibration/windows.js'
import { Calibration, type CompressOptions, calibrate, compress, Model, sensitivitySearch } from '#lib/index.js'
import { train } from '#lib/recover/training.js'
import { recoveryWindows } from '#lib/recover.js'
import { tinyModel } from './support/child.js'
import { type ExpectedError, throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'
import { safetensorsBytes, type TestTensor } from './support/safetensors-writer.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const folder = temporaryDirectory()
const file = (...names: string[]) => path.join(folder, ...names)
const looks = { calibration: [{ text, name: 'some/text.txt' }], samples: 8, seqLen: 64 }

const model = await Model.load(tinyModel, { threads: 2 })
const made = await calibrate(model, { ...looks, inputMoments: true, heldOut: 3 })
await sensitivitySearch(made, { windows: 1 })
await made.save(file('whole'))
await made.save(file('shards'), { shardBytes: 1e6 })
const loaded = await Calibration.load(model, file('whole'))

const sha256 = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex')

/** What makes a checkpoint, without the file that says how long it took. */
async function digest(
  calibration: Calibration,
  options: Omit<CompressOptions, 'calibration'>,
): Promise<string> {
  const small = await compress(calibration.model, { ...options, calibration })
  try {
    await small.save(file('digest'), { overwrite: true })
  } finally {
    small.dispose()
  }
  const names = ['config.json', 'flrc-plan.json', 'model.safetensors']
  return names.map((name) => sha256(readFileSync(file('digest', name)))).join(' ')
}

const equality = suite('a stored calibration: what is cut from it')

equality('all of it comes back', () => {
  const own = ({ model: _model, figures, ...rest }: Calibration) => ({ ...rest, ...figures })
  assert.equal(own(loaded), own(made))
  assert.is(loaded.storedBytes, made.storedBytes)
})

equality('models have the same bytes as from the one in memory, whatever they are cut to', async () => {
  const all: Omit<CompressOptions, 'calibration'>[] = [
    { keep: 0.8, levels: [0.8, 0.5] },
    { keep: 0.7, dtype: 'int8', levels: [0.7, 0.4], method: 'energy' },
    { keep: 0.8, dtype: 'int4', method: 'fisher', storage: 'plain' },
    { keep: 0.6, dtype: 'f32', method: 'uniform', rankMultiple: 8 },
    { keep: 0.7, method: 'asvd' },
    { targetBytes: 1.4e6, dtype: 'int8' },
    { targetPerplexityIncrease: 0.3 },
  ]
  const shards = await Calibration.load(model, file('shards'), { memory: 1 })
  for (const options of all) {
    const expected = await digest(made, options)
    for (const calibration of [loaded, shards]) {
      assert.is(await digest(calibration, options), expected, JSON.stringify(options))
    }
  }
  shards.dispose()
})

equality('a recovery from it is the same, and so are losses of single cuts', async () => {
  const curves = []
  for (const calibration of [made, loaded]) {
    const levels = [Int32Array.from(model.projections, ({ rows, cols }) => Math.min(rows, cols) >> 1)]
    const start = await calibration.factorize({ levels, storage: 'pivoted', dtype: 'bf16' }, 0.5, {})
    const windows = await recoveryWindows(calibration, undefined, {})
    const { parts, report } = await train(model, start, {
      ...{ windows, minutes: 1, steps: 2, batch: 2, dtype: 'int8', levels: 1, seed: 3, memory: 2 ** 30 },
      scratch: folder,
    })
    new Model(parts).dispose()
    const cuts = { projection: 3, ranks: Int32Array.of(8, 40), storage: 'pivoted' } as const
    const losses = await calibration.cutLosses(cuts, windows[0] ?? new Int32Array(), 64, {})
    // When between the first and the last it is evaluated depends on the time that steps take.
    curves.push([report.curve[0]?.kl, report.curve.at(-1)?.kl, losses])
  }
  assert.equal(curves[1], curves[0])
})

equality('what was cut lives on after it, and another loading of the model takes it too', async () => {
  const other = await Model.load(tinyModel, { threads: 1 })
  const again = await Calibration.load(other, file('whole'))
  const small = await compress(other, { keep: 0.8, calibration: again })
  again.dispose()
  await throwsFlrcError(() => compress(other, { keep: 0.7, calibration: again }), { code: 'E_DISPOSED' })
  await throwsFlrcError(() => again.save(file('disposed')), { code: 'E_DISPOSED' })
  assert.not.ok(existsSync(file('disposed')))
  await small.save(file('outlives'))
  small.dispose()
  other.dispose()
  await throwsFlrcError(() => Calibration.load(other, file('whole')), { code: 'E_DISPOSED' })
})

const counting = suite('a stored calibration: how many windows are asked for')

counting('where the text had no more, more of them are the same', async () => {
  const short = text.slice(0, 2000)
  const all = await calibrate(model, { calibration: [short], samples: 64, seqLen: 64 })
  const { samples } = all.options
  assert.ok(samples > 3 && samples < 60, `${samples} windows`)
  await all.save(file('short'))
  const stored = await Calibration.load(model, file('short'))
  for (const calibration of [all, stored]) {
    for (const same of [samples, samples + 1, 64, 100]) {
      ;(await compress(model, { keep: 0.8, calibration, samples: same })).dispose()
    }
    await throwsFlrcError(() => compress(model, { keep: 0.8, calibration, samples: samples - 1 }), {
      ...{ code: 'E_USAGE', message: /samples/ },
    })
  }
  for (const calibration of [all, stored]) calibration.dispose()
})

counting('of several sources each is to have given its share, or all it had', () => {
  const used = (windows: number, kind: 'text' | 'self' | 'windows' = 'text') => ({
    ...{ kind, windows, sha256: '' },
    ...(kind === 'windows' ? {} : { weight: 1 }),
  })
  const cases: [UsedSource[], asked: number, wanted: number, same: boolean][] = [
    [[used(8)], 8, 8, true],
    [[used(8)], 8, 9, false],
    [[used(5)], 8, 9, true],
    [[used(5)], 8, 6, true],
    [[used(5)], 8, 4, false],
    [[used(8), used(8)], 16, 16, true],
    [[used(3), used(8)], 16, 16, true],
    [[used(3), used(8)], 16, 18, false],
    [[used(3), used(7)], 16, 18, true],
    [[used(3), used(7)], 16, 4, false],
    [[used(3), used(8, 'self')], 16, 18, false],
    [[used(1, 'windows'), used(1, 'windows'), used(4)], 8, 8, true],
    [[used(1, 'windows'), used(1, 'windows')], 8, 2, true],
    [[used(1, 'windows'), used(1, 'windows')], 8, 1, false],
    [[used(1, 'windows'), used(0, 'windows')], 1, 2, false],
  ]
  for (const [sources, asked, wanted, same] of cases) {
    assert.is(sameWindows(sources, asked, wanted), same, JSON.stringify([sources, asked, wanted]))
  }
})

const fitting = suite('a stored calibration: options that it does not fit')

fitting('each is told with what to calibrate', async () => {
  const narrow = await calibrate(model, { ...looks, curves: false })
  await narrow.save(file('narrow'))
  const plain = await Calibration.load(model, file('narrow'))
  assert.not.ok(plain.hasCurves)
  ;(await compress(model, { keep: 0.8, method: 'energy', calibration: plain })).dispose()
  const cases: [CompressOptions, RegExp][] = [
    [{ keep: 0.8, calibration: plain }, /truncation curves.*calibrate with curves/],
    [{ keep: 0.8, method: 'uniform', dtype: 'int4', calibration: plain }, /int4.*calibrate with inputMoments/],
    [{ keep: 0.8, calibration: loaded, seed: 1 }, /seed 0, and 1 is asked for/],
    [{ keep: 0.8, calibration: loaded, samples: 9 }, /samples 8/],
    [{ keep: 0.8, calibration: loaded, labels: 'data' }, /labels model/],
    [{ keep: 0.8, calibration: loaded, seqLen: 32 }, /seqLen 64/],
    [{ keep: 0.8, calibration: loaded, whitening: 'scaled' }, /whitening two-sided/],
    [{ keep: 0.8, calibration: loaded, shrinkage: { inputs: 0 } }, /shrinkage\.inputs 0\.1/],
  ]
  for (const [options, message] of cases) {
    await throwsFlrcError(() => compress(model, options), { code: 'E_USAGE', message })
  }
  await throwsFlrcError(
    () => compress(model, { targetPerplexityIncrease: 0.1, calibration: plain, method: 'energy' }),
    {
      code: 'E_CALIBRATION',
      message: /calibrate with heldOut/,
    },
  )
  const same = { ...looks, seed: 0, labels: 'model', whitening: 'two-sided', calibration: loaded } as const
  ;(await compress(model, { keep: 0.8, ...same })).dispose()
})

const reading = suite('a stored calibration: what cannot be read')

interface Stored {
  version: number
  model: Record<string, unknown>
  options: Record<string, unknown>
  files: Record<string, string>
  windows: number[][]
  heldOut: number[][]
  sensitivities: { ratios: number[]; projections: { name: string }[] }[]
}

let copies = 0
/** A copy of the calibration with its record changed. */
function damagedRecord(change: (record: Stored) => unknown): string {
  const directory = file(`copy-${copies++}`)
  cpSync(file('whole'), directory, { recursive: true })
  const at = path.join(directory, 'flrc-calibration.json')
  const record = JSON.parse(readFileSync(at, 'utf8')) as Stored
  const changed = change(record)
  writeFileSync(at, typeof changed === 'string' ? changed : JSON.stringify(record))
  return directory
}

/** A copy with other tensors, the record knowing them. */
function damagedTensors(change: (tensors: TestTensor[]) => TestTensor[]): string {
  const bytes = readFileSync(file('whole', 'calibration.safetensors'))
  const length = Number(bytes.readBigUInt64LE())
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => ({
        ...{ name, dtype, shape },
        data: Uint8Array.from(bytes.subarray(8 + length + begin, 8 + length + end)),
      }),
    )
  const changed = safetensorsBytes(change(tensors))
  const directory = damagedRecord(({ files }) => {
    files['calibration.safetensors'] = sha256(changed)
  })
  writeFileSync(path.join(directory, 'calibration.safetensors'), changed)
  return directory
}

const named = (name: string, change: (tensor: TestTensor) => TestTensor) => (tensors: TestTensor[]) =>
  tensors.map((tensor) => (tensor.name === name ? change(tensor) : tensor))
const q = 'model.layers.2.self_attn.q_proj'
const withNan = (tensor: TestTensor) => {
  const data = Uint8Array.from(tensor.data ?? [])
  data.fill(0xff, 0, 8)
  return { ...tensor, data }
}

const damaged: [what: string, directory: () => string, expected: ExpectedError][] = [
  [
    'a file that ends early',
    () => {
      const directory = damagedRecord(() => undefined)
      truncateSync(path.join(directory, 'calibration.safetensors'), 100_000)
      return directory
    },
    { code: 'E_MODEL_FORMAT', message: /calibration\.safetensors.*cut/ },
  ],
  [
    'one byte that is another',
    () => {
      const directory = damagedRecord(() => undefined)
      const at = path.join(directory, 'calibration.safetensors')
      const bytes = readFileSync(at)
      bytes[3_000_000] = (bytes[3_000_000] ?? 0) ^ 4
      writeFileSync(at, bytes)
      return directory
    },
    { code: 'E_MODEL_FORMAT', message: /calibration\.safetensors: damaged.*SHA-256/ },
  ],
  [
    'a file that is missing',
    () =>
      damagedRecord(({ files }) =>
        Object.assign(files, { 'calibration-00002-of-00002.safetensors': '0'.repeat(64) }),
      ),
    { code: 'E_NOT_FOUND' },
  ],
  ['no record', () => file('nowhere'), { code: 'E_NOT_FOUND', message: /flrc-calibration\.json/ }],
  ['a record that is no JSON', () => damagedRecord(() => '{"version": 1'), { code: 'E_MODEL_FORMAT' }],
  [
    'a newer version',
    () => damagedRecord((record) => Object.assign(record, { version: 2 })),
    { code: 'E_VERSION', message: /upgrade/ },
  ],
  [
    'another model',
    () => damagedRecord(({ model: of }) => Object.assign(of, { sha256: 'a'.repeat(64) })),
    { code: 'E_USAGE', message: new RegExp(`a{64}.*${made.hashes.model}.*calibrate this one`) },
  ],
  [
    'the model under another configuration',
    () => damagedRecord(({ model: of }) => Object.assign(of, { config: 'b'.repeat(64) })),
    { code: 'E_USAGE', message: /another configuration/ },
  ],
  [
    'the model in another type',
    () => damagedRecord(({ model: of }) => Object.assign(of, { dtype: 'f32' })),
    { code: 'E_USAGE', message: /held in f32.*held in bf16.*--dtype bf16/ },
  ],
  [
    'a token that the model has not',
    () => damagedRecord(({ windows }) => windows[1]?.splice(0, 1, 99_999)),
    { code: 'E_CALIBRATION', message: /flrc-calibration\.json/ },
  ],
  [
    'a token that 32 bits would make another of',
    () => damagedRecord(({ windows }) => windows[1]?.splice(0, 1, 2 ** 32)),
    { code: 'E_MODEL_FORMAT', message: /windows/ },
  ],
  [
    'fewer windows than it says',
    () => damagedRecord(({ windows }) => windows.pop()),
    { code: 'E_MODEL_FORMAT' },
  ],
  [
    'windows held out of several lengths',
    () => damagedRecord(({ heldOut }) => heldOut[0]?.pop()),
    { code: 'E_MODEL_FORMAT', message: /of one length/ },
  ],
  [
    'an option that is none',
    () => damagedRecord(({ options }) => Object.assign(options, { whitening: 'black' })),
    { code: 'E_MODEL_FORMAT', message: /options\.whitening/ },
  ],
  [
    'a file of another folder',
    () =>
      damagedRecord((record) =>
        Object.assign(record, { files: { '../whole/calibration.safetensors': 'a'.repeat(64) } }),
      ),
    { code: 'E_MODEL_FORMAT' },
  ],
  [
    'no files',
    () => damagedRecord((record) => Object.assign(record, { files: {} })),
    { code: 'E_MODEL_FORMAT' },
  ],
  [
    'a search of other projections',
    () => damagedRecord(({ sensitivities }) => sensitivities[0]?.projections.pop()),
    { code: 'E_MODEL_FORMAT' },
  ],
  [
    'a search at other ratios',
    () => damagedRecord(({ sensitivities }) => sensitivities[0]?.ratios.splice(0, 1, 0.123)),
    { code: 'E_MODEL_FORMAT', message: /ratios/ },
  ],
  [
    'a tensor of another shape',
    () => damagedTensors(named(`${q}.V`, (tensor) => ({ ...tensor, shape: [64, 256] }))),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.V` },
  ],
  [
    'a tensor of another type',
    () => damagedTensors(named(`${q}.U`, (tensor) => ({ ...tensor, dtype: 'F64', shape: [64, 128] }))),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.U`, message: /unexpected type/ },
  ],
  [
    'a type that is not taken',
    () => damagedTensors(named(`${q}.U`, (tensor) => ({ ...tensor, dtype: 'I32' }))),
    { code: 'E_UNSUPPORTED_TYPE', tensor: `${q}.U` },
  ],
  [
    'more ranks than there are',
    () =>
      damagedTensors(
        named(`${q}.U`, (tensor) => ({ ...tensor, shape: [129, 128], data: new Uint8Array(129 * 512) })),
      ),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.U`, message: /129 ranks/ },
  ],
  [
    'a tensor that is missing',
    () => damagedTensors((tensors) => tensors.filter(({ name }) => name !== `${q}.curve`)),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.curve`, message: /missing/ },
  ],
  [
    'moments that are missing',
    () => damagedTensors((tensors) => tensors.filter(({ name }) => name !== `${q}.moment`)),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.moment` },
  ],
  [
    'a curve with a NaN',
    () => damagedTensors(named(`${q}.curve`, withNan)),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.curve`, message: /NaN/ },
  ],
  [
    'scores with a NaN',
    () => damagedTensors(named(`${q}.scores`, withNan)),
    { code: 'E_MODEL_FORMAT', tensor: `${q}.scores` },
  ],
]

for (const [what, directory, expected] of damaged) {
  reading(`${what}: ${expected.code}`, () =>
    throwsFlrcError(() => Calibration.load(model, directory()), expected),
  )
}

reading('factors that are NaN, or gone since: an error where they are cut', async () => {
  const nan = damagedTensors(named(`${q}.U`, withNan))
  const shrunk = damagedRecord(() => undefined)
  for (const [directory, code] of [
    [nan, 'E_NUMERIC'],
    [shrunk, 'E_MODEL_FORMAT'],
  ] as const) {
    const calibration = await Calibration.load(model, directory)
    if (directory === shrunk) truncateSync(path.join(directory, 'calibration.safetensors'), 200_000)
    await throwsFlrcError(() => compress(model, { keep: 0.5, dense: false, calibration }), { code })
    calibration.dispose()
  }
})

const writing = suite('a stored calibration: writing')

writing('an existing directory is replaced only where it is asked for, and only a calibration', async () => {
  await made.save(file('there'))
  await throwsFlrcError(() => made.save(file('there')), { code: 'E_EXISTS', message: /--overwrite/ })
  const before = readFileSync(file('there', 'flrc-calibration.json'))
  await made.save(file('there'), { overwrite: true })
  assert.equal(readFileSync(file('there', 'flrc-calibration.json')), before)
  assert.equal(readdirSync(file('there')), ['calibration.safetensors', 'flrc-calibration.json'])
  const copy = file('model')
  cpSync(tinyModel, copy, { recursive: true })
  await throwsFlrcError(() => made.save(copy, { overwrite: true }), {
    code: 'E_EXISTS',
    message: /no calibration/,
  })
  const small = await compress(model, { keep: 0.8, calibration: made })
  await throwsFlrcError(() => small.save(file('there'), { overwrite: true }), {
    code: 'E_EXISTS',
    message: /no model/,
  })
  small.dispose()
  const read = await Model.load(copy)
  const own = await calibrate(read, looks)
  await throwsFlrcError(() => own.save(copy, { overwrite: true }), {
    code: 'E_EXISTS',
    message: /model that is read/,
  })
  own.dispose()
  read.dispose()
})

writing('one that was loaded can be written again, in its own place too', async () => {
  cpSync(file('whole'), file('own'), { recursive: true })
  const own = await Calibration.load(model, file('own'))
  await own.save(file('own'), { overwrite: true })
  own.dispose()
  for (const name of readdirSync(file('whole'))) {
    assert.is(sha256(readFileSync(file('own', name))), sha256(readFileSync(file('whole', name))), name)
  }
})

writing('an aborted one leaves nothing, and an aborted loading ends', async () => {
  mkdirSync(file('aborted'))
  const interrupt = new AbortController()
  const saving = made.save(file('aborted', 'out'), {
    signal: interrupt.signal,
    onProgress: () => interrupt.abort(),
  })
  await throwsFlrcError(() => saving, { code: 'E_ABORTED' })
  assert.equal(readdirSync(file('aborted')), [])
  const over = AbortSignal.abort()
  await throwsFlrcError(() => made.save(file('aborted', 'out'), { signal: over }), { code: 'E_ABORTED' })
  await throwsFlrcError(() => Calibration.load(model, file('whole'), { signal: over }), { code: 'E_ABORTED' })
  const soon = new AbortController()
  const loading = Calibration.load(model, file('whole'), { signal: soon.signal })
  setImmediate(() => soon.abort())
  await throwsFlrcError(() => loading, { code: 'E_ABORTED' })
  assert.equal(readdirSync(file('aborted')), [])
})

writing('where nothing can be written: E_IO', async () => {
  writeFileSync(file('plain'), '')
  await throwsFlrcError(() => made.save(file('plain', 'out')), { code: 'E_IO' })
})

for (const tests of [equality, fitting, reading, writing]) tests.run()
