// bench/cuda.sh where programs crash, fail and hang: what each leaves of the others' results. The tools and programs
// of a GPU machine are shell scripts here.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { repository, temporaryDirectory } from './support/paths.js'

interface Outcomes {
  builds: Record<string, string>
  suites: { suite: string; outcome: string; tests: { name: string; outcome: string }[] }[]
  kernels: Timed
  engine: Timed
  demo: string
  checks: Record<string, string>
}

interface Timed {
  parts: { part: string; outcome: string }[]
  rows: { name: string }[]
}

/** By name, what the tests' program does when it is asked for that test. */
const tests: Record<string, string> = {
  'good: one, with a "quote" and a \\': 'exit 0',
  'good: two': 'exit 0',
  'wrong: is off by one': 'echo "off by 1"; exit 1',
  'wrong: is right': 'exit 0',
  'trap: ends its context': 'echo "  trap:0: threw CUDA: an illegal memory access was encountered"; exit 1',
  'crash: aborts': 'kill -ABRT $$',
  'stuck: hangs': 'sleep 60',
  'stuck: never begins': 'touch "$0.began"; exit 0',
}

/** By part, the suites it needs and what its program does with the file for rows. */
const row = (name: string) => `echo '{"name": "${name}"}' >>"$2"`
const kernels: Record<string, [string, string]> = {
  device: ['', row('device')],
  // What lists the parts is not to be read by one of them.
  'good part': ['good', `cat; ${row('first')}; ${row('second')}`],
  'part of a wrong one': ['good,wrong', row('never')],
  'part of a trap': ['trap', row('never')],
  'part of a crash': ['crash', row('never')],
  'part of a stuck one': ['stuck', row('never')],
  'part of none': ['good,unheard of', row('never')],
  'part that hangs': ['good', `${row('before')}; trap '' TERM; sleep 60`],
  'part that crashes': ['good', `${row('half')}; kill -SEGV $$`],
  'last part': ['good', row('last')],
}
const engine: Record<string, [string, string]> = {
  'dense, many': ['good', row('dense')],
  'dense, one launch': ['good', 'echo "CUDA: unspecified launch failure"; exit 1'],
  'other, many': ['good', row('other')],
}

const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`
const cases = (actions: [string, string][]) =>
  `case $1 in\n${actions.map(([name, action]) => `${quoted(name)}) ${action} ;;`).join('\n')}\nesac`

const testProgram = `[ "$1" != --names ] || exec printf '%s\\n' ${Object.keys(tests).map(quoted).join(' ')}
${cases(Object.entries(tests))}`

function partsProgram(parts: Record<string, [string, string]>): string {
  const listed = Object.entries(parts).map(([name, [needs]]) => quoted(`${name}\t${needs}`))
  const actions = Object.entries(parts).map(([name, [, action]]): [string, string] => [name, action])
  return `[ $# -gt 0 ] || exec printf '%s\\n' ${listed.join(' ')}\n${cases(actions)}`
}

const programs = {
  flrc_cuda_test: testProgram,
  flrc_cuda_bench: partsProgram(kernels),
  flrc_cuda_engine: partsProgram(engine),
}

/** Runs the script in a folder of its own with these programs, of which those left out do not build, and more scripts. */
function run(
  built: Partial<typeof programs>,
  more: Record<string, string> = {},
  limits = 'test_limit=1 part_limit=1 mercy=1',
) {
  const folder = temporaryDirectory()
  const tools = path.join(folder, 'tools')
  const write = (file: string, text: string) => {
    mkdirSync(path.dirname(file), { recursive: true })
    writeFileSync(file, `#!/bin/bash\n${text}\n`, { mode: 0o755 })
  }
  for (const [name, text] of Object.entries(more)) write(path.join(folder, name), text)
  const source = readFileSync(repository('bench', 'cuda.sh'), 'utf8')
  const usual = /^test_limit=\d+ part_limit=\d+ mercy=\d+$/m
  assert.match(source, usual)
  const hasty = source.replace(usual, limits)
  write(path.join(folder, 'bench', 'cuda.sh'), hasty)
  for (const [name, text] of Object.entries(built)) write(path.join(folder, 'made', name), text)
  write(path.join(tools, 'nvcc'), 'echo "Cuda compilation tools, release 13.0, V13.0.88"')
  for (const name of ['ninja', 'g++']) write(path.join(tools, name), 'exit 1')
  // cmake --build FOLDER --target PROGRAM ..., the last of which is an executable.
  write(
    path.join(tools, 'cmake'),
    `[ "$1" = --build ] || exec mkdir -p "$4"\ncp "${folder}/made/\${@: -1}" "$2" || { echo "it does not compile"; exit 1; }`,
  )
  const { status, stdout } = spawnSync(path.join(folder, 'bench', 'cuda.sh'), ['out/results.json'], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { PATH: `${tools}:/usr/bin:/bin` },
  })
  const results = JSON.parse(readFileSync(path.join(folder, 'out', 'results.json'), 'utf8')) as Outcomes
  return { status, stdout, results }
}

const outcomesOf = ({ parts }: Timed) => Object.fromEntries(parts.map(({ part, outcome }) => [part, outcome]))
const namesOf = ({ rows }: Timed) => rows.map(({ name }) => name)

const script = suite('cuda.sh')

script('a test or part that crashes, fails or hangs costs no other its result', () => {
  const { status, stdout, results } = run(programs, { 'build/cuda-demo/run.sh': 'kill -SEGV $$' })
  assert.is(status, 1)
  assert.equal(Object.fromEntries(results.suites.map((one) => [one.suite, one.outcome])), {
    good: '2 passed',
    wrong: '1 passed, 1 failed',
    trap: '1 faulted',
    crash: '1 faulted',
    stuck: '1 timed out, 1 not run',
  })
  assert.equal(
    results.suites.flatMap((one) => one.tests.map(({ name }) => name)),
    Object.keys(tests),
  )
  assert.equal(outcomesOf(results.kernels), {
    device: 'timed',
    'good part': 'timed',
    'part of a wrong one': 'not timed: its tests failed (wrong: 1 passed, 1 failed)',
    'part of a trap': 'not timed: its tests failed (trap: 1 faulted)',
    'part of a crash': 'not timed: its tests failed (crash: 1 faulted)',
    'part of a stuck one': 'not timed: its tests failed (stuck: 1 timed out, 1 not run)',
    'part of none': 'not timed: unheard of has not been tested',
    'part that hangs': 'timed out',
    'part that crashes': 'faulted',
    'last part': 'timed',
  })
  assert.equal(namesOf(results.kernels), ['device', 'first', 'second', 'before', 'half', 'last'])
  assert.equal(outcomesOf(results.engine), {
    'dense, many': 'timed',
    'dense, one launch': 'faulted',
    'other, many': 'timed',
  })
  assert.equal(namesOf(results.engine), ['dense', 'other'])
  assert.match(stdout, /8 failed.*test "wrong: is off by one": failed.*engine, dense, one launch: faulted/s)
  assert.match(stdout, /off by 1/)
  assert.is(results.demo, 'faulted')
})

script('all is well where all is, and what time is left goes to compute-sanitizer', () => {
  const sanitizer = 'shift 4; [ "$2" != "other: " ] || exit 99'
  const { status, stdout, results } = run(
    {
      flrc_cuda_test: `[ "$1" != --names ] || printf '%s\\n' 'good: one' 'other: two'`,
      flrc_cuda_bench: partsProgram({ part: ['good,other', row('row')] }),
      flrc_cuda_engine: partsProgram({ 'dense, many': ['good', row('dense')] }),
    },
    { 'tools/compute-sanitizer': sanitizer, 'build/cuda-demo/run.sh': 'echo the demo' },
  )
  assert.is(status, 0, stdout)
  assert.equal(results.builds, { tests: 'passed', kernels: 'passed', engine: 'passed' })
  assert.equal(namesOf(results.kernels), ['row'])
  assert.is(results.demo, 'passed')
  assert.match(stdout, /the demo/)
  assert.equal(results.checks, {
    'memcheck, good': 'passed',
    'memcheck, other': 'failed',
    'racecheck, good': 'passed',
    'racecheck, other': 'failed',
  })
})

script('a test that had not all of its time has not timed out', () => {
  const { results, stdout } = run(
    {
      flrc_cuda_test: `[ "$1" != --names ] || exec printf '%s\\n' 'slow: one' 'slow: two'\nsleep 60`,
      flrc_cuda_bench: partsProgram({ part: ['slow', row('never')] }),
    },
    {},
    'test_limit=25 part_limit=1 mercy=1 tests_end=2',
  )
  assert.equal(
    results.suites.map(({ outcome }) => outcome),
    ['2 no time left'],
    stdout,
  )
  assert.equal(outcomesOf(results.kernels), { part: 'not timed: its tests failed (slow: 2 no time left)' })
})

script('what does not compile is told, and nothing is timed without tests', () => {
  const { flrc_cuda_bench, flrc_cuda_engine, flrc_cuda_test } = programs
  const untested = run(
    { flrc_cuda_bench, flrc_cuda_engine },
    { 'build/cuda-gpu/kernels/flrc_cuda_test': flrc_cuda_test },
  )
  assert.is(untested.status, 1)
  assert.is(untested.results.builds.tests, 'failed')
  assert.match(untested.stdout, /it does not compile/)
  assert.equal(namesOf(untested.results.kernels), ['device'])
  assert.equal(untested.results.engine.rows, [])

  const untimed = run({ flrc_cuda_test, flrc_cuda_engine })
  assert.is(untimed.status, 1)
  assert.equal(untimed.results.kernels, { parts: [], rows: [] })
  assert.equal(namesOf(untimed.results.engine), ['dense', 'other'])
})

// Of bash 4 and GNU timeout, which a GPU machine has.
if (process.platform === 'linux') script.run()
else console.log('skipped: bench/cuda.sh, which is for Linux')
