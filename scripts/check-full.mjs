// Everything `npm test` does, and what is too slow for every day. The list below is the one place for it.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { root, StepError } from './setup/log.mjs'
import { ensureNode } from './setup/other-node.mjs'

const script = (name) => path.join(root, 'scripts', name)

const jobs = [
  { name: 'all tests', run: () => node(process.execPath, [script('test.mjs')]) },
  {
    name: 'long fuzzing of the loader under the sanitizers, and of the file formats',
    run: () => ['flrc_test_sanitized', 'format-fuzz'].every((test) => longer(test)),
  },
  { name: 'the report in a browser', run: () => node(process.execPath, [script('check-report.mjs')]) },
  ...onX64('linux-arm64, cross-built, under qemu', 'check:arm64'),
  ...onX64('the CUDA plugin, compiled', 'build:cuda'),
  { name: 'all tests on Node 22', run: () => onNode(22) },
  { name: 'all tests on Node 24', run: () => onNode(24) },
]

let failed = 0
for (const { name, run } of jobs) {
  console.log(`\n== ${name}`)
  if (!(await succeeds(run))) failed += 1
}
console.log(`\n${jobs.length - failed} passed, ${failed} failed`)
if (failed > 0) process.exitCode = 1

/** Cross compilers and NVIDIA's are there for x64 alone. */
function onX64(name, command) {
  const run = () => node(process.execPath, [script('setup.mjs'), command])
  return process.arch === 'x64' ? [{ name, run }] : []
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

/** The addon is the same one, built once against Node-API. */
async function onNode(major) {
  return node(await ensureNode(major), [script('test.mjs')])
}
