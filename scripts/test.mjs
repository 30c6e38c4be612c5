// Runs all checks and tests: `npm test`, or `npm test -- PATTERN ...` for those whose names contain a pattern.
// Every test file runs in a process of its own, under a limit, two at a time. The last line is the count.
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { cudaTests } from './setup/cuda-tests.mjs'
import { root } from './setup/log.mjs'
import { cudaSessionTest, nativeTestsOf } from './setup/native.mjs'
import { host } from './setup/targets.mjs'
import { checks } from './test/checks.mjs'
import { closingLine, sum } from './test/counts.mjs'
import { alone, limits } from './test/limits.mjs'
import { runProgram } from './test/programs.mjs'

const atOnce = 2
const shownLines = 200
const sanitizers = {
  ASAN_OPTIONS: 'detect_leaks=1:strict_string_checks=1:check_initialization_order=1',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
}

const patterns = process.argv.slice(2)
const wanted = (name) => patterns.length === 0 || patterns.some((pattern) => name.includes(pattern))

const nativeTests = nativeTestsOf(host)
const results = []
// The sessions' test is the core's, and opens the plugin that is built with the kernels' tests.
const compiled = { native: [...nativeTests, cudaSessionTest], cuda: [...cudaTests, cudaSessionTest] }
for (const check of checks) {
  // Which TypeScript tests are wanted is known only once they are compiled.
  const needed =
    compiled[check.builds]?.some((file) => wanted(path.basename(file))) ?? check.builds !== undefined
  if (wanted(check.name) || needed) await runCheck(check)
}

const programs = [...nativePrograms(), ...testFiles()].filter(({ name }) => wanted(name))
const serial = programs.filter(({ name }) => alone.includes(name) || name.endsWith('.serial.test'))
const parallel = programs.filter((program) => !serial.includes(program))
await runAll(parallel, atOnce)
await runAll(serial, 1)

const total = sum(results)
if (results.length === 0) {
  console.log(`no check or test matches ${patterns.join(' ')}`)
  total.failed = 1
}
console.log(`\n${closingLine(total)}`)
if (total.failed > 0) process.exitCode = 1

async function runCheck({ name, run }) {
  const started = performance.now()
  const outcome = (await run()) ?? {}
  const { problem, output = '', skip } = outcome
  // A build that only had to be there for the chosen tests is no result of theirs, unless it failed.
  if (!wanted(name) && problem === undefined) return
  report(name, {
    passed: problem === undefined && skip === undefined ? 1 : 0,
    failed: problem === undefined ? 0 : 1,
    skipped: skip === undefined ? 0 : 1,
    seconds: (performance.now() - started) / 1000,
    reasons: skip === undefined ? [] : [skip],
    output,
    problem,
  })
}

async function runAll(queue, width) {
  const waiting = [...queue]
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { name, ...program } = next
      report(name, await runProgram({ limit: limits[name] ?? limits.standard, ...program }))
    }
  }
  await Promise.all(Array.from({ length: width }, worker))
}

function report(name, result) {
  results.push(result)
  const verdict = result.problem === undefined ? 'ok  ' : 'FAIL'
  const detail = result.problem ?? closingLine(result)
  console.log(`${verdict} ${name.padEnd(34)} ${`${result.seconds.toFixed(1)} s`.padStart(8)}  ${detail}`)
  for (const reason of result.reasons) console.log(`       skipped: ${reason}`)
  if (result.problem !== undefined) {
    const lines = result.output.trimEnd().split('\n')
    if (lines.length > shownLines) lines.splice(0, lines.length - shownLines, '...')
    console.log(lines.map((line) => `     | ${line}`).join('\n'))
  }
}

function nativePrograms() {
  return [...nativeTests, ...cudaTests, cudaSessionTest]
    .filter((file) => existsSync(path.join(root, file)))
    .map((file) => ({ name: path.basename(file), command: path.join(root, file), args: [], env: sanitizers }))
}

function testFiles() {
  const folder = path.join(root, 'build/ts/test')
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .sort()
    .map((file) => ({
      name: file.replace(/\.js$/, ''),
      command: process.execPath,
      args: [path.join(folder, file)],
    }))
}
