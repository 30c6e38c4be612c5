// linux-arm64 on linux-x64, under qemu-user: the C++ tests, and the installed tarball beside what it does on x64.
// `npm run check:arm64` makes both first; `-- PATTERN` runs the checks whose names contain it, after the installation.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { emulated } from './setup/cross.mjs'
import { root } from './setup/log.mjs'
import { nativeTestsOf } from './setup/native.mjs'
import { ensureNode } from './setup/other-node.mjs'
import { tarball } from './setup/package.mjs'
import { npm } from './setup/packages.mjs'
import { linuxArm64 } from './setup/targets.mjs'
import { runProgram } from './test/programs.mjs'

/** Seconds for the C++ tests, which take some twenty times as long as natively. */
const limit = 1800
/** Kernels of OpenBLAS, one after the other: every chip's, a server's, and with SVE. */
const kernelSets = ['ARMV8', 'NEOVERSEN1', 'NEOVERSEV1']
/** Of perplexities: other kernels form sums in another order, which shows in the sixth digit. */
const tolerance = 1e-4

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-arm64-'))
const installed = path.join(folder, 'node_modules/flrc')
const tiny = path.join(installed, 'models/tiny')
const node = { x64: [process.execPath, []], arm64: emulated(await ensureNode(20, linuxArm64.arch), []) }

const checks = [
  ['C++ tests', nativeTests],
  ['generate', writesTheSame],
  ['compress', compress],
]
const pattern = process.argv[2] ?? ''
try {
  install()
  for (const [name, check] of checks.filter(([name]) => name.includes(pattern))) {
    const started = performance.now()
    await check()
    console.log(`ok   ${name.padEnd(34)} ${((performance.now() - started) / 1000).toFixed(1)} s`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}

async function nativeTests() {
  const [command, args] = emulated(path.join(root, nativeTestsOf(linuxArm64)[0]), [])
  const { passed, problem, output } = await runProgram({ command, args, limit })
  assert.equal(problem, undefined, `${problem}\n${output}`)
  console.log(`     ${passed} passed`)
}

function install() {
  writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n')
  const options = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts']
  run(npm[0], [...npm.slice(1), 'install', ...options, path.join(root, tarball)])
}

function writesTheSame() {
  const [x64, arm64] = ['x64', 'arm64'].map((arch) => {
    const { tokenIds } = flrc(arch, ['generate', tiny, '-p', 'Once upon a time', '--max-tokens', '16'])
    return { tokenIds, perplexity: perplexity(arch, tiny) }
  })
  assert.deepEqual(arm64.tokenIds, x64.tokenIds)
  assertNear(arm64.perplexity, x64.perplexity)
}

function compress() {
  const text = path.join(tiny, 'calibration.txt')
  const options = ['--keep', '.8', '--levels', '.8,.6', '--samples', '4', '--seq-len', '64', '--overwrite']
  const compressed = (arch, env) => {
    flrc(arch, ['compress', tiny, '-o', 'small', '--calibration', text, ...options], env)
    return perplexity(arch, 'small')
  }
  const expected = compressed('x64')
  for (const set of kernelSets) assertNear(compressed('arm64', { OPENBLAS_CORETYPE: set }), expected)
}

function perplexity(arch, model) {
  const text = path.join(tiny, 'heldout.txt')
  return flrc(arch, ['eval', 'perplexity', model, '--text', text, '--seq-len', '64', '--windows', '4'])
    .perplexity
}

function assertNear(value, expected) {
  assert.ok(Math.abs(value / expected - 1) < tolerance, `perplexity ${value}, on x64 ${expected}`)
}

function flrc(arch, args, env = {}) {
  const [command, first] = node[arch]
  return JSON.parse(run(command, [...first, path.join(installed, 'dist/cli/main.js'), ...args, '--json'], env))
}

function run(command, args, env = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, OPENBLAS_CORETYPE: '', ...env },
  })
  assert.equal(status, 0, `${command} ${args.join(' ')}\n${error?.message ?? ''}${stdout}${stderr}`)
  return stdout
}
