import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { benchDecode, bytesRead } from '#lib/bench/decode.js'
import { compress, Model, progressive } from '#lib/index.js'
import { medianOf } from '#lib/statistics/median.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const model = await Model.load(tinyModel)
const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
const small = await compress(model, {
  ...{ keep: 0.8, levels: [0.8, 0.5], calibration, samples: 4, seqLen: 64, method: 'uniform' },
})
const folder = temporaryDirectory()
const checkpoint = path.join(folder, 'small')
await small.save(checkpoint)

test('a median is the middle', () => {
  assert.is(medianOf([3, 1, 2]), 2)
  assert.is(medianOf([4, 1, 3, 2]), 2.5)
  assert.is(medianOf([7]), 7)
})

test('rows hold what a schedule reads, and their speeds and shares fit together', async () => {
  const schedule = progressive({ from: 0.8, to: 0.5, over: 3, shape: 'step' })
  const stages = new Set<string>()
  const result = await benchDecode(
    [
      { name: 'dense', model, scheduleName: 'full' },
      { name: 'small', model: small, scheduleName: 'step', schedule },
    ],
    { tokens: 8, promptTokens: 5, rounds: 2, onProgress: ({ stage }) => stages.add(stage) },
  )
  assert.equal([...stages], ['warm up', 'round 1', 'round 2', 'done'])
  const [dense, falling] = result.rows
  if (dense === undefined || falling === undefined) throw new Error('a row is missing')
  // Steps 1 and 2 are at level 0, and 3 to 8 at level 1; step 1 is at position 5.
  const [high = 0, low = 0] = small.levels.map(({ budget }) => budget)
  assert.ok(Math.abs(falling.meanActiveBudget - (2 * high + 6 * low) / 8) < 1e-12)
  const { layers, kvHeads, headDim } = model.config
  const cache = (positions: number) => 2 * 2 * layers * kvHeads * headDim * positions
  const [top = 0, bottom = 0] = small.levels.map(({ bytesPerToken }) => bytesPerToken)
  assert.is(bytesRead(small, 1, 9), bottom + cache(10))
  const meanCache = (cache(6) + cache(13)) / 2
  assert.ok(Math.abs(falling.bytesPerToken - ((2 * top + 6 * bottom) / 8 + meanCache)) < 1e-6)
  assert.is(dense.bytesPerToken, (model.levels[0]?.bytesPerToken ?? 0) + meanCache)
  assert.is(dense.dtype, 'bf16')
  const { bandwidth, bandwidthSpread } = result.machine
  assert.ok(bandwidth > 1e8 && bandwidthSpread[0] <= bandwidth && bandwidth <= bandwidthSpread[1])
  for (const row of result.rows) {
    assert.ok(row.spread[0] <= row.tokensPerSecond && row.tokensPerSecond <= row.spread[1])
    assert.ok(Math.abs((row.ceiling * row.bytesPerToken) / bandwidth - 1) < 1e-12)
    const [least, most] = bandwidthSpread.map((by) => row.bytesPerToken / by)
    assert.ok(
      row.bandwidthShare >= row.spread[0] * (most ?? 0) && row.bandwidthShare <= row.spread[1] * (least ?? 0),
    )
  }
})

test('prompts are cut from a text, and drafts count as read', async () => {
  const text = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
  // Whether it drafts at all depends on how long steps took: on a busy machine it may not.
  let drafted = false
  for (let attempt = 0; attempt < 8 && !drafted; attempt += 1) {
    const { rows } = await benchDecode(
      [
        { name: 'plain', model: small, scheduleName: 'full' },
        { name: 'drafting', model: small, scheduleName: 'speculate', speculate: { tokens: 4, budget: 0.5 } },
      ],
      { tokens: 24, promptTokens: 8, rounds: 2, text },
    )
    const [plain, drafting] = rows
    if (plain === undefined || drafting === undefined) throw new Error('a row is missing')
    assert.ok(Math.abs(plain.meanActiveBudget - (small.levels[0]?.budget ?? 0)) < 1e-12)
    assert.ok(drafting.tokensPerSecond > 0 && drafting.bytesPerToken > 0)
    drafted = drafting.meanActiveBudget !== plain.meanActiveBudget
  }
  assert.ok(drafted)
})

test('what cannot be measured', async () => {
  const subject = { name: 'dense', model, scheduleName: 'full' }
  const refused = (subjects: (typeof subject)[], options: object, code = 'E_USAGE') =>
    throwsFlrcError(() => benchDecode(subjects, options), { code })
  await refused([], {})
  await refused([subject], { text: 'short' })
  await refused([subject], { rounds: 0 })
  await refused([subject], { tokens: 0.5 })
  await refused([subject], { tokens: 600 }, 'E_CONTEXT')
  await refused([subject], { signal: AbortSignal.abort() }, 'E_ABORTED')
  const schedule = progressive({ from: 0.9, to: 0.5, over: 2 })
  await refused([{ ...subject, model: small, schedule } as typeof subject], {})
  const stopped = new AbortController()
  await refused([subject], { signal: stopped.signal, onProgress: () => stopped.abort() }, 'E_ABORTED')
})

test('the program: the contract’s keys, models and schedules side by side', async () => {
  const bench = ['bench', 'decode', tinyModel, checkpoint, '--tokens', '4', '--rounds', '1']
  const falling = [...bench, '--schedule', 'step:.8:.5:2', '--schedule', 'constant:.5']
  const ended = await runCli([...falling, '--json'], { cwd: folder })
  assert.is(ended.code, 0, ended.stderr)
  const { machine, rows } = JSON.parse(ended.stdout) as {
    machine: { bandwidth: number }
    rows: Record<string, unknown>[]
  }
  assert.ok(machine.bandwidth > 1e8)
  assert.equal(
    rows.map(({ name, schedule }) => [name, schedule]),
    [
      ['tiny', 'full'],
      ['small', 'full'],
      ['small', 'step:.8:.5:2'],
      ['small', 'constant:.5'],
    ],
  )
  const keys = ['name', 'dtype', 'schedule', 'tokensPerSecond', 'spread', 'bytesPerToken']
  for (const key of [...keys, 'bandwidthShare', 'meanActiveBudget']) assert.ok(key in (rows[0] ?? {}), key)
  const long = ['--schedule', 'exponential:.8:.5:128']
  const plain = await runCli([...bench, '--dtype', 'int8', ...long], { cwd: folder })
  const lines = plain.stdout.split('\n')
  assert.match(lines[0] ?? '', /^ +tokens\/s +spread +limit +share +a token +budget$/)
  assert.equal(
    lines.map((line) => / *[^ ]+/.exec(line)?.[0]).filter((begin) => /^ {2}[a-z]|,$/.test(begin ?? '')),
    ['tiny,', '  full', 'small,', '  full', '  exponential:.8:.5:128'],
  )
  assert.ok(Math.max(...lines.map((line) => line.length)) <= 80, plain.stdout)
  const fails = async (code: string, exit: number, args: string[]) => {
    const failed = await runCli(args, { cwd: folder })
    assert.is(failed.code, exit, failed.stderr)
    assert.match(failed.stderr, new RegExp(`flrc: ${code}: `))
  }
  await fails('E_USAGE', 2, ['bench', 'decode'])
  await fails('E_USAGE', 2, [...bench, '--schedule', 'half'])
  await fails('E_USAGE', 2, [...bench, '--schedule', 'constant:.9'])
  await fails('E_USAGE', 2, ['bench', 'decode', tinyModel, '--schedule', 'constant:.5'])
  await fails('E_NOT_FOUND', 1, ['bench', 'decode', 'nowhere'])
})

test.run()
