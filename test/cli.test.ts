import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { storeSchedule } from '#lib/checkpoint/schedule.js'
import { scoreChart } from '#lib/cli/chart.js'
import { qualityOf } from '#lib/cli/demo.js'
import { numberIn, parseBytes, parseFractions, parseNumber, wholeNumber } from '#lib/cli/options.js'
import { formatBytes, formatProse, formatSeconds, formatTable } from '#lib/cli/output.js'
import { ProgressLine } from '#lib/cli/progress-line.js'
import { redraws } from '#lib/cli/shown-step.js'
import { runCli, tinyModel } from './support/child.js'

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-test-'))
const file = (name: string) => path.join(folder, name)
const calibration = path.join(tinyModel, 'calibration.txt')
const heldout = path.join(tinyModel, 'heldout.txt')
const prompt = 'Once upon a time there was a king who'

/** Runs a command that must work; its stdout as JSON. */
async function json(args: string[], cwd = folder): Promise<Record<string, unknown>> {
  const ended = await runCli([...args, '--json'], { cwd, seconds: 120 })
  assert.is(ended.code, 0, ended.stderr)
  return JSON.parse(ended.stdout) as Record<string, unknown>
}

const parsing = suite('parsing and printing')

parsing('numbers', () => {
  assert.equal(['1', '.5', '1.', '-2e3', '+4'].map(parseNumber), [1, 0.5, 1, -2000, 4])
  for (const text of ['', ' ', '12abc', 'NaN', 'Infinity', '1e999', '0x10', '1,5', '--1']) {
    assert.throws(() => parseNumber(text), /must be a number/)
  }
  assert.throws(() => wholeNumber(1)('1.5'), /whole number from 1/)
  assert.throws(() => numberIn(0, 1, true)('0'), /0 excluded/)
  assert.equal(parseFractions('.9, .8,0.7'), [0.9, 0.8, 0.7])
})

parsing('sizes', () => {
  assert.equal(['8GB', '512MB', '1.5 g', '100', '2KiB'].map(parseBytes), [
    8 * 2 ** 30,
    2 ** 29,
    1.5 * 2 ** 30,
    100,
    2048,
  ])
  for (const text of ['', 'GB', '-1GB', '1PB', '0', '1e9'])
    assert.throws(() => parseBytes(text), /must be a size/)
})

parsing('tables, bytes and times', () => {
  assert.is(formatTable(['a', 'bb'], [['xyz', '1']]), 'a    bb\n---  --\nxyz   1')
  assert.equal([0, 999, 1000, 999_600, 3.21e9].map(formatBytes), [
    '0 B',
    '999 B',
    '1.00 kB',
    '1.00 MB',
    '3.21 GB',
  ])
  assert.is(formatBytes(2e18), '2.00 EB')
  assert.equal([0.2, 59.6, 600, 36000].map(formatSeconds), ['1 s', '60 s', '10 min', '10.0 h'])
})

parsing('prose is broken between words, after the line breaks it has', () => {
  const word = 'a'.repeat(39)
  assert.is(formatProse(`${word} ${word.slice(1)} b\n\nc`), `  ${word} ${word.slice(1)}\n  b\n\n  c`)
  assert.is(formatProse('x'.repeat(100)), `  ${'x'.repeat(100)}`, 'a word stays whole')
})

parsing('only a terminal wide enough, and not a dumb one, has its lines drawn again', () => {
  const wide = { isTTY: true, columns: 80 }
  assert.ok(redraws(wide, 'xterm') && redraws(wide))
  assert.not.ok(redraws(wide, 'dumb') || redraws({ ...wide, columns: 0 }) || redraws({ ...wide, isTTY: false }))
})

parsing('progress tells the stage, how far it is and how long it will take', () => {
  const line = new ProgressLine(0)
  assert.is(line.text(500), undefined, 'nothing in the first second')
  assert.is(line.text(2500), '3 s so far', 'before anything is reported')
  line.report({ stage: 'forward', done: 0, total: 10 }, 3000)
  assert.is(line.text(5000), 'forward 0/10, 2 s so far')
  line.report({ stage: 'forward', done: 4, total: 10 }, 7000)
  assert.is(line.text(7000), 'forward 4/10, 6 s left')
  assert.is(line.text(9000), 'forward 4/10, 4 s left', 'the seconds go on between reports')
  assert.is(line.text(60_000), 'forward 4/10, 1 s left', 'and end at the last one')
  line.report({ stage: 'curves', done: 0, total: 10 }, 70_000)
  assert.is(line.text(71_000), 'curves 0/10, 1 s so far', 'a stage begins anew')
  line.report({ stage: 'curves', done: 10, total: 10 }, 72_000)
  assert.is(line.text(72_000), 'curves 10/10')
  line.report({ stage: 'download', done: 2.5e6, total: 2.5e6, unit: 'bytes' }, 72_000)
  assert.is(line.text(72_000), 'download 2.50 MB/2.50 MB')
  assert.is(line.elapsed(72_000), 72)
})

parsing('the chart has a bar and a share per projection', () => {
  const projections = ['q', 'down'].map((kind) => ({
    name: kind,
    kind: kind as 'q' | 'down',
    layer: 0,
    rows: 1,
    cols: 1,
  }))
  const lines = scoreChart(projections, { q: 0.01, down: 1 }).split('\n')
  assert.match(lines[0] ?? '', /layer\s+q\s+down/)
  assert.match(lines[1] ?? '', /0\s+\S 1\.0%\s+█ 100%|0\s+\S\s*1\.0% █ 100%/)
})

const commands = suite('commands')

commands('compress, then everything that takes a checkpoint', async () => {
  const args = ['--calibration', calibration, '--samples', '4', '--seq-len', '128']
  const made = await json(['compress', tinyModel, '-o', 'small', '--keep', '.8', '--levels', '.8,.6', ...args])
  assert.equal(Object.keys(made), [
    'keep',
    'storedParameters',
    'denseParameters',
    'storedBytes',
    'sourceBytes',
    'ranks',
    'dense',
    'levels',
    'scores',
    'seconds',
    'peakBytes',
  ])
  assert.equal(Object.keys(made.seconds as object).sort(), [
    'allocate',
    'calibrate',
    'curves',
    'factorize',
    'load',
    'save',
    'total',
  ])
  assert.ok((made.storedParameters as number) <= 0.8 * (made.denseParameters as number))
  assert.equal(readdirSync(folder), ['small'])
  assert.match(readFileSync(path.join(file('small'), 'README.md'), 'utf8'), /^license: "apache-2\.0"$/m)

  const run = ['generate', 'small', '-p', prompt, '--max-tokens', '6']
  const completion = await json([...run, '--schedule', 'step:.8:.6:3'])
  assert.equal(Object.keys(completion).sort(), [
    'accepted',
    'drafted',
    'finishReason',
    'levels',
    'meanActiveBudget',
    'promptTokens',
    'text',
    'timeToFirstTokenMs',
    'tokenIds',
    'tokensPerSecond',
  ])
  assert.equal(completion.levels, [0, 0, 0, 1, 1, 1])
  const streamed = await runCli([...run, '--schedule', 'step:.8:.6:3'], { cwd: folder })
  assert.is(streamed.stdout, `${completion.text}\n`, 'stdout is the text alone')
  assert.not.match(streamed.stderr, 'changes nothing')
  assert.match(streamed.stderr, /^6 tokens, as many as --max-tokens allows; mean active budget 0\.\d{3}/m)
  const dense = await runCli(['generate', tinyModel, ...run.slice(2), '--schedule', 'step:.8:.6:3'])
  assert.match(dense.stderr, /^note: the model has one level, so the schedule changes nothing; .* --levels$/m)

  const longer = ['generate', 'small', '-p', prompt, '--max-tokens', '40']
  const plain = await json(longer)
  const speculated = await json([...longer, '--speculate', '4:.6'])
  assert.equal([speculated.tokenIds, speculated.levels], [plain.tokenIds, plain.levels])
  assert.ok((speculated.drafted as number) > 0 && (speculated.accepted as number) >= 0)
  assert.equal([plain.drafted, plain.accepted], [0, 0])

  const missing = await runCli([...run, '--schedule', 'calibrated'], { cwd: folder })
  assert.is(missing.code, 2)
  assert.match(missing.stderr, 'calibrate-schedule')
  await storeSchedule(file('small'), 'step:.8:.6:3')
  const calibrated = await json([...run, '--schedule', 'calibrated'])
  assert.equal(calibrated.tokenIds, completion.tokenIds)
  assert.equal(calibrated.levels, completion.levels)

  const quality = await json([
    'eval',
    'perplexity',
    'small',
    '--text',
    heldout,
    '--seq-len',
    '128',
    '--windows',
    '3',
  ])
  assert.equal(Object.keys(quality), ['perplexity', 'tokens', 'windows', 'seqLen'])
  assert.equal([quality.tokens, quality.windows, quality.seqLen], [381, 3, 128])

  const seen = await json(['inspect', 'small'])
  assert.is(seen.schedule, 'step:.8:.6:3')
  assert.is((seen.projections as unknown[]).length, 6 * 7)
  const table = await runCli(['inspect', 'small'], { cwd: folder })
  assert.match(table.stdout, 'model.layers.4.mlp.down_proj')

  const exported = await json(['export', 'small', '--to', 'hf', '-o', 'dense'])
  assert.ok((exported.bytes as number) > (made.storedBytes as number))
  const again = await json(['generate', 'dense', '-p', prompt, '--max-tokens', '6'])
  assert.is((again.tokenIds as number[]).length, 6)
})

commands('several calibration sources with weights, and files whose name looks like one', async () => {
  writeFileSync(file('a:b.txt'), readFileSync(calibration))
  const line = { dialogue: '#A#: Where is the king?\n#B#: At sea.', summary: 'The king is at sea.' }
  writeFileSync(file('talk.jsonl'), `${JSON.stringify(line)}\n`.repeat(3))
  const quick = ['--samples', '8', '--seq-len', '64', '--method', 'uniform', '--whitening', 'input']
  const made = await json([
    'compress',
    tinyModel,
    ...['-o', 'mixed', '--keep', '.5', '--calibration', `${calibration}:3`, 'a:b.txt', 'talk.jsonl:1'],
    ...['self:3', ...quick],
  ])
  assert.ok((made.storedParameters as number) <= 0.5 * (made.denseParameters as number))
  const plan = JSON.parse(readFileSync(path.join(file('mixed'), 'flrc-plan.json'), 'utf8')) as {
    method: string
    calibration: {
      windows: number
      sources: { kind: string; name?: string; windows: number; sampling?: { seed: number } }[]
    }
  }
  assert.is(plan.method, 'uniform')
  assert.is(plan.calibration.windows, 8)
  assert.equal(
    plan.calibration.sources.map(({ kind, name, windows }) => [kind, name, windows]),
    [
      ['text', 'calibration.txt', 3],
      ['text', 'a:b.txt', 1],
      ['dialogues', 'talk.jsonl', 1],
      ['self', undefined, 3],
    ],
  )
  assert.is(plan.calibration.sources[3]?.sampling?.seed, 0)
})

commands('a run in words: what was kept, the dense model beside the levels, and what fell short', async () => {
  writeFileSync(file('short.txt'), readFileSync(calibration, 'utf8').slice(0, 2000))
  const args = ['compress', tinyModel, '-o', 'short', '--keep', '.8', '--levels', '.8,.6']
  const ended = await runCli([...args, '--calibration', 'short.txt', '--seq-len', '64'], { cwd: folder })
  assert.is(ended.code, 0, ended.stderr)
  assert.match(ended.stderr, /^note: calibrated on \d+ windows instead of 64, as the texts have no more/m)
  const lines = ended.stdout.split('\n')
  assert.match(lines[0] ?? '', /^short: \d\.\d\d MB$/)
  assert.match(lines[1] ?? '', /^keeps (80\.00|79\.\d\d)% of the block parameters \(\d+ of \d+\)$/)
  assert.ok(lines.every((line) => line.length <= 80))
  const measured = await runCli(
    [
      ...args.slice(0, 3),
      'measured',
      ...args.slice(4),
      '--calibration',
      calibration,
      '--samples',
      '4',
      '--seq-len',
      '64',
    ],
    { cwd: folder },
  )
  assert.match(measured.stdout, /perplexity\n-[- ]+\ndense +1\.0000 +\d+\.\d\d\n0 +0\.[78]\d{3} +\d+\.\d\d\n1 /)
})

commands('equal runs write equal bytes, at any thread count', async () => {
  const args = [
    '--keep',
    '.7',
    '--levels',
    '.7,.5',
    '--calibration',
    calibration,
    '--samples',
    '4',
    '--seq-len',
    '64',
  ]
  for (const threads of ['1', '2']) {
    await json(['compress', tinyModel, '-o', `threads-${threads}`, '--threads', threads, ...args])
  }
  for (const name of ['model.safetensors', 'config.json', 'flrc-plan.json']) {
    const [one, two] = ['1', '2'].map((threads) => readFileSync(path.join(file(`threads-${threads}`), name)))
    assert.ok(one && two && one.equals(two), name)
  }
})

commands('a prompt from a file or from stdin', async () => {
  const args = ['generate', tinyModel, '--max-tokens', '6', '--json']
  const text = JSON.parse((await runCli([...args, '-p', prompt])).stdout) as { tokenIds: number[] }
  writeFileSync(file('prompt.txt'), `${prompt}\n`)
  const runs = [
    await runCli([...args, '-f', file('prompt.txt')]),
    await runCli([...args, '--file', '-'], { input: `${prompt}\r\n` }),
  ]
  for (const { stdout } of runs) assert.equal((JSON.parse(stdout) as typeof text).tokenIds, text.tokenIds)
})

commands('chat and stop strings', async () => {
  const base = ['generate', tinyModel, '-p', 'Continue this text.', '--chat', '--max-tokens', '40']
  const whole = (await json(base)).text as string
  const stop = whole.slice(12, 18)
  const stopped = await json([...base, '--stop', 'nowhere in it', '--stop', stop])
  assert.is(stopped.finishReason, 'stop')
  assert.is(stopped.text, whole.slice(0, whole.indexOf(stop)))
})

commands('the demo ends within a minute, shows that the curves help, and may be run again', async () => {
  const results = await json(['demo'])
  const rows = results.rows as {
    name: string
    keep: number
    perplexity: number
    storedBytes: number
    text: string
  }[]
  assert.equal(
    rows.map(({ name, keep }) => `${name} ${keep}`),
    [
      'dense 1',
      'uniform 0.8',
      'fisher 0.8',
      'curve 0.8',
      'uniform 0.6',
      'fisher 0.6',
      'curve 0.6',
      'curve, progressive 0.8',
    ],
  )
  const perplexityOf = (name: string, keep: number) =>
    rows.find((row) => row.name === name && row.keep === keep)?.perplexity ?? Number.NaN
  for (const keep of [0.8, 0.6]) {
    assert.ok(perplexityOf('dense', 1) < perplexityOf('curve', keep))
    assert.ok(perplexityOf('curve', keep) < perplexityOf('fisher', keep))
    assert.ok(perplexityOf('fisher', keep) < perplexityOf('uniform', keep))
  }
  assert.ok(rows.every(({ text }) => text.length > 10))
  assert.ok((results.seconds as number) < 60, `took ${results.seconds} s`)
  assert.is(results.report, path.join('flrc-demo', 'report.html'))
  const report = readFileSync(file(results.report as string), 'utf8')
  assert.match(report, /<h1>flrc-demo<\/h1>[\s\S]*id="methods-figure-title"/)
  const loaded = await json(['inspect', 'flrc-demo'])
  assert.is((loaded.levels as unknown[]).length, 3)
})

commands('the demo cuts the model in the type that it is told to', async () => {
  const ended = await runCli(['demo', '--dtype', 'int4'], {
    cwd: folder,
    onStart: (child) => {
      child.stderr?.on('data', (data) => {
        if (String(data).includes('measure uniform')) child.kill('SIGINT')
      })
    },
  })
  assert.is(ended.code, 130, ended.stderr)
  assert.match(qualityOf({ dtype: 'int4' }, []).caption, /^The embedded model in int4;/)
})

commands.after(() => rmSync(folder, { recursive: true }))

for (const tests of [parsing, commands]) tests.run()
