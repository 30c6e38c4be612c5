// Everything `npm test` does, and what is too slow for every day. The list below is the one place for it.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { obstacleToCross } from './setup/cross.mjs'
import { root, StepError } from './setup/log.mjs'
import { ensureNode } from './setup/other-node.mjs'
import { win32X64 } from './setup/targets.mjs'
import { closingLine } from './test/counts.mjs'

/** In the names of all test files, and of nothing else that `npm test` runs. */
const typeScriptTests = '.test'
const script = (name) => path.join(root, 'scripts', name)

const jobs = [
  { name: 'all tests', run: () => node(process.execPath, [script('test.mjs')]) },
  {
    name: 'long fuzzing of the loader under the sanitizers, and of the file formats',
    run: () => ['flrc_test_sanitized', 'format-fuzz'].every((test) => longer(test)),
  },
  { name: 'the report in a browser', run: () => node(process.execPath, [script('check-report.mjs')]) },
  ...onX64('linux-arm64, cross-built, under qemu', 'check:arm64'),
  ...onX64('win32-x64, cross-built, under Wine', 'check:win32', () => obstacleToCross(win32X64)),
  ...onX64('the CUDA plugin, compiled', 'build:cuda'),
  ...onX64('what tests and times it on a GPU machine, compiled', 'build:cuda:programs'),
  { name: 'the TypeScript tests on Node 22', run: () => onNode(22) },
  { name: 'the TypeScript tests on Node 24', run: () => onNode(24) },
]

const total = { passed: 0, failed: 0, skipped: 0 }
for (const { name, run, obstacle } of jobs) {
  console.log(`\n== ${name}`)
  const reason = obstacle?.()
  if (reason !== undefined) console.log(`skipped: ${reason}`)
  total[reason !== undefined ? 'skipped' : (await succeeds(run)) ? 'passed' : 'failed'] += 1
}
console.log(`\n${closingLine(total)}`)
if (total.failed > 0) process.exitCode = 1

/** Cross compilers and NVIDIA's are there for x64 alone. `obstacle` says why a job is left out, if it is. */
function onX64(name, command, obstacle) {
  const run = () => node(process.execPath, [script('setup.mjs'), command])
  return process.arch === 'x64' ? [{ name, run, obstacle }] : []
}

function longer(test) {
  return node(process.execPath, [script('test.mjs'), test], { FLRC_LONG: '1' })
}

async function succeeds(run) {
  try {
    return await run()
  } catch (error) {
    if (!(error instanceof StepError)) throw error
    console.log(error.explain())
    return false
  }
}

function node(executable, args, env = {}) {
  return (
    spawnSync(executable, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }).status === 0
  )
}

/** The addon is the same one, built once against Node-API; checks and programs in C++ know nothing of Node. */
async function onNode(major) {
  return node(await ensureNode(major), [script('test.mjs'), typeScriptTests])
}
