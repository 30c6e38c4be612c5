import { readFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { calibrate } from '#lib/calibrate.js'
import { calibrationWindows } from '#lib/calibration/windows.js'
import { heldOutSource } from '#lib/checkpoint/plan.js'
import { parseDecimalBytes, parseShare } from '#lib/cli/options.js'
import { crossing, leastKeep } from '#lib/compress/solve.js'
import { type CompressOptions, compress } from '#lib/compress.js'
import { complete } from '#lib/generate.js'
import { LoadedModel } from '#lib/model.js'
import { Model } from '#lib/public-model.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const dense = await Model.load(tinyModel)
const calibration = await calibrate(dense, {
  calibration: [text],
  samples: 8,
  seqLen: 128,
  heldOut: 4,
  inputMoments: true,
})

async function solved(options: CompressOptions) {
  const small = await compress(dense, { calibration, ...options })
  const { keep, storedBytes, levels, report } = small
  return { small, keep, storedBytes, levels, heldOut: report?.heldOut, seconds: report?.seconds }
}

const search = suite('the crossing')

search('ends beside it, from both sides', async () => {
  for (const bend of [0.2, 1, 5]) {
    for (const root of [0.06, 0.5, 0.97]) {
      let tries = 0
      const excess = async (keep: number) => {
        tries++
        return keep ** bend - root ** bend
      }
      const { below, above } = await crossing(excess, 'below', 0)
      assert.ok(below && above && below.keep <= root && root <= above.keep)
      const hit = below.excess === 0
      assert.ok(hit || above.keep - below.keep < 0.02, `${below.keep} to ${above.keep}`)
      assert.ok(tries <= 14)
    }
  }
})

search('takes one step where the excess is straight, from either side', async () => {
  for (const wanted of ['below', 'above'] as const) {
    const seen: number[] = []
    const found = await crossing(
      async (keep) => {
        seen.push(keep)
        return 100 * keep - 88.2
      },
      wanted,
      0.1,
    )
    assert.is(seen.length, 3, `keeps tried: ${seen}`)
    const { excess = Number.NaN } = found[wanted] ?? {}
    assert.ok(wanted === 'below' ? excess <= 0 && excess >= -0.1 : excess > 0 && excess <= 0.1)
  }
})

search('says which side has nothing', async () => {
  assert.equal(await crossing(async (keep) => keep - 2, 'below', 0), {
    below: { keep: 1, excess: -1 },
    above: undefined,
  })
  const { below, above } = await crossing(async (keep) => keep + 1, 'above', 0)
  assert.is(below, undefined)
  assert.is(above?.keep, leastKeep)
})

const held = suite('windows held out')

held('lie behind the others and change nothing about them', async () => {
  const options = { calibration: [text, { self: true as const }], samples: 4, seqLen: 64 }
  const without = await calibrationWindows(dense, options)
  const { windows, heldOut, sha256, sources } = await calibrationWindows(dense, { ...options, heldOut: 2 })
  assert.equal(windows, without.windows)
  assert.equal({ sha256, sources }, { sha256: without.sha256, sources: without.sources })
  assert.equal(without.heldOut, [])
  assert.is(heldOut.length, 2)
  const end = text.indexOf('\n', Math.floor((text.length * 8) / 9) - 1) + 1
  assert.equal(heldOut[0], dense.tokenizer.encode(text.slice(end)).slice(0, 64), "from the text's end")
})

held('of a short text are none, or taken from those to calibrate on', async () => {
  const short = dense.tokenizer.decode([...dense.tokenizer.encode(text).slice(0, 64 * 5 + 20)])
  const options = { calibration: [short], samples: 8, seqLen: 64, heldOut: 2 }
  const kept = await calibrationWindows(dense, options)
  assert.equal([kept.windows.length, kept.heldOut.length], [5, 0])
  const split = await calibrationWindows(dense, { ...options, mustHoldOut: true })
  assert.equal([split.windows.length, split.heldOut.length], [3, 2])
  assert.equal([...split.windows, ...split.heldOut], kept.windows)
})

held('are measured, at every level', async () => {
  const { small, heldOut } = await solved({ keep: 0.7, levels: [0.7, 0.5] })
  assert.is(heldOut?.windows, 4)
  assert.is(heldOut?.tokens, 4 * 127)
  assert.is(heldOut?.levels.length, 2)
  const [high = 0, low = 0] = heldOut?.levels.map(({ perplexity }) => perplexity) ?? []
  assert.ok((heldOut?.dense.perplexity ?? 0) < high && high < low)
  small.dispose()
})

const targets = suite('targets')

targets('bytes: the largest keep that fits, to a thousandth', async () => {
  const full = dense.storedBytes
  for (const [share, dtype] of [
    [0.85, 'bf16'],
    [0.4, 'int8'],
  ] as const) {
    const target = Math.round(full * share)
    const { small, storedBytes, keep, seconds } = await solved({ targetBytes: target, dtype })
    assert.ok(storedBytes <= target && storedBytes > target * 0.997, `${storedBytes} of ${target}`)
    assert.ok(keep > 0.1 && keep < 1)
    assert.ok((seconds?.solve ?? 0) > 0)
    small.dispose()
  }
})

targets(
  'bytes: a rank floor leaves the smallest keep to start from, weights go with their levels',
  async () => {
    const { small, keep, levels, storedBytes } = await solved({
      targetBytes: Math.round(dense.storedBytes * 0.9),
      rankFloor: 0.4,
      levels: [0.95, 0.7],
      levelWeights: [1, 5, 2],
    })
    assert.ok(keep > 0.8 && keep < 0.95 && storedBytes <= dense.storedBytes * 0.9)
    assert.is(levels.length, 2)
    assert.equal(small.plan?.options.levelWeights, [1, 2])
    small.dispose()
  },
)

targets('bytes: more than the dense model takes is all of it, and too few name the nearest', async () => {
  const { small, keep } = await solved({ targetBytes: 1e12 })
  assert.is(keep, 1)
  small.dispose()
  await throwsFlrcError(() => solved({ targetBytes: 1000 }), {
    code: 'E_USAGE',
    message: /no keep reaches 1000 bytes: keep 0.05 takes \d+/,
  })
})

targets('perplexity: the smallest keep within it, measured on windows held out', async () => {
  const target = 0.03
  const { small, keep, heldOut, levels } = await solved({
    targetPerplexityIncrease: target,
    levels: [0.99, 0.3, 0.2],
  })
  const increase = (heldOut?.levels[0]?.perplexity ?? 0) / (heldOut?.dense.perplexity ?? 1) - 1
  assert.ok(increase <= target && increase > target * 0.7, `${increase} at keep ${keep}`)
  assert.is(heldOut?.decidedKeep, true)
  assert.match(heldOut ? heldOutSource(heldOut) : '', /keep was chosen on them/)
  assert.is(levels.length, 3, 'a level above keep is left out')
  const less = await solved({ keep: keep - 0.02, levels: [0.3, 0.2] })
  const worse = (less.heldOut?.levels[0]?.perplexity ?? 0) / (heldOut?.dense.perplexity ?? 1) - 1
  assert.ok(worse > target, `${worse} with less kept`)
  small.dispose()
  less.small.dispose()
})

targets('perplexity: what rounding alone exceeds cannot be reached', async () => {
  await throwsFlrcError(() => solved({ targetPerplexityIncrease: 1e-9, dtype: 'int4', method: 'uniform' }), {
    code: 'E_USAGE',
    message: /no keep reaches a perplexity increase of 0.00%: keep 1 has/,
  })
  const none = await calibrate(dense, { calibration: [text], samples: 2, seqLen: 64, curves: false })
  await throwsFlrcError(
    () => compress(dense, { calibration: none, targetPerplexityIncrease: 0.1, method: 'uniform' }),
    { code: 'E_CALIBRATION', message: /no windows left/ },
  )
  none.dispose()
})

targets('perplexity: an eighth as many windows as are calibrated on are held out for it', async () => {
  const small = await compress(dense, {
    ...{ targetPerplexityIncrease: 0.3, calibration: [text], samples: 12, seqLen: 64 },
  })
  assert.is(small.report?.heldOut?.windows, 2)
  small.dispose()
})

targets('bytes: every model that is tried is let go', async () => {
  let held = 0
  const { dispose } = LoadedModel.prototype
  const factorize: typeof calibration.factorize = (...cut) => {
    held++
    return calibration.factorize(...cut)
  }
  const counted = Object.create(calibration, { factorize: { value: factorize } }) as typeof calibration
  LoadedModel.prototype.dispose = function () {
    held--
    dispose.call(this)
  }
  try {
    const options = { targetBytes: Math.round(dense.storedBytes * 0.8), calibration: counted }
    const small = await compress(dense, options)
    assert.is(held, 1)
    small.dispose()
  } finally {
    LoadedModel.prototype.dispose = dispose
  }
})

targets('speed: where it goes by bytes, no more are cut than it takes', async () => {
  const { now } = performance
  const { createSession } = LoadedModel.prototype
  const read = ({ levels }: LoadedModel) => levels[0]?.bytesPerToken ?? 0
  // A clock that only decoding moves on, by a millisecond a megabyte.
  let clock = 0
  performance.now = () => clock
  LoadedModel.prototype.createSession = function () {
    const decode = async () => (clock += read(this) / 1e6)
    return { prefill: async () => 1, decode, release: () => undefined } as never
  }
  try {
    const small = await compress(dense, { targetTokensPerSecond: (1.2 * 1e9) / read(dense), calibration })
    const share = (1.2 * read(small)) / read(dense)
    assert.ok(share <= 1 && share > 0.99, `${share}`)
    small.dispose()
  } finally {
    performance.now = now
    LoadedModel.prototype.createSession = createSession
  }
})

targets('speed: met by a real measurement, or refused with the nearest', async () => {
  const { small, keep } = await solved({ targetTokensPerSecond: 1 })
  assert.is(keep, 1, 'what the dense model reaches keeps everything')
  const { tokensPerSecond } = await complete(small.generate('Once', { maxTokens: 16 }))
  assert.ok(tokensPerSecond > 1)
  small.dispose()
  await throwsFlrcError(() => solved({ targetTokensPerSecond: 1e9 }), {
    code: 'E_USAGE',
    message: /no keep reaches 1000000000 tokens\/s: the fastest that was measured is [\d.]+ at keep/,
    within: 60_000,
  })
})

targets('exactly one of them', async () => {
  const wrong = [{}, { keep: 0.5, targetBytes: 10 }, { targetBytes: 10, targetTokensPerSecond: 5 }]
  for (const options of wrong) {
    await throwsFlrcError(() => solved(options), { code: 'E_USAGE', message: /give exactly one of them/ })
  }
  await throwsFlrcError(() => solved({ targetBytes: 0.5 }), { code: 'E_USAGE', message: /targetBytes/ })
  await throwsFlrcError(() => solved({ targetPerplexityIncrease: 0 }), {
    code: 'E_USAGE',
    message: /targetPerplexityIncrease/,
  })
})

const command = suite('on the command line')

command('sizes and shares as people write them', () => {
  assert.equal(['80MB', '1.5gb', '80MiB', '12k', '100'].map(parseDecimalBytes), [
    80e6,
    1.5e9,
    80 * 2 ** 20,
    12e3,
    100,
  ])
  assert.equal(['5%', '.05', '100 %'].map(parseShare), [0.05, 0.05, 1])
  for (const wrong of ['', '-1MB', '5 apples', '80PB', '0'])
    assert.throws(() => parseDecimalBytes(wrong), /must be/)
  for (const wrong of ['', '0', '-1%', '%', '5%%']) assert.throws(() => parseShare(wrong), /must be/)
})

command('the result names the keep that was found', async () => {
  const cwd = temporaryDirectory()
  const target = Math.round(dense.storedBytes * 0.8)
  const calibrated = [
    '--calibration',
    path.join(tinyModel, 'calibration.txt'),
    '--samples',
    '4',
    '--seq-len',
    '64',
  ]
  const compressed = ['compress', tinyModel, '-o', 'out', ...calibrated, '--json']
  const done = await runCli([...compressed, '--target-bytes', String(target)], { cwd, seconds: 120 })
  assert.is(done.code, 0, done.stderr)
  const { keep, storedBytes, storedParameters, denseParameters } = JSON.parse(done.stdout)
  assert.ok(storedBytes <= target && keep < 1 && storedParameters <= keep * denseParameters)
  for (const wrong of [[], ['--keep', '.5', '--target-bytes', '80MB']]) {
    const refused = await runCli([...compressed, ...wrong], { cwd })
    assert.is(refused.code, 2)
    assert.match(refused.stderr, /E_USAGE: .*exactly one of --keep, --target-bytes/)
  }
})

command.after(() => {
  calibration.dispose()
  dense.dispose()
})

for (const tests of [search, held, targets, command]) tests.run()
