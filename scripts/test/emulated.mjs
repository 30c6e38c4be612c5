// Checks of a target that this machine only emulates: its C++ tests, and the installed package beside what it does here.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, cpSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { root } from '../setup/log.mjs'
import { nativeTestsOf } from '../setup/native.mjs'
import { ensureNode } from '../setup/other-node.mjs'
import { tarball } from '../setup/package.mjs'
import { npm } from '../setup/packages.mjs'
import { host } from '../setup/targets.mjs'
import { countsOf } from './counts.mjs'
import { runProgram } from './programs.mjs'

/** Seconds for the C++ tests, which take some twenty times as long as natively under qemu. */
const limit = 1800
/** Of perplexities: other kernels form sums in another order, which shows in the sixth digit. */
const tolerance = 1e-4

/**
 * Runs the checks whose names contain `pattern`, after the installation. `kernelSets`: those of OpenBLAS to compress
 * with, by its names, or '' for its own choice; `attached`: whether the target's binary is not in the package;
 * `library`: names of compiled tests of the library; `more`: further `[name, check]`, where check gets
 * `flrc(target, args)`, which gives the parsed output of a command, and `tiny`, the embedded model's folder.
 */
export async function checkTarget(target, options) {
  const { pattern = '', kernelSets = [''], attached = false, library = [], more = [] } = options
  const folder = mkdtempSync(path.join(tmpdir(), `flrc-${target.name}-`))
  const installed = path.join(folder, 'node_modules/flrc')
  const tiny = path.join(installed, 'models/tiny')
  const beside = path.join(folder, 'beside')
  const nodes = new Map([
    [host, { command: process.execPath, args: [], env: {} }],
    [target, target.run(await ensureNode(20, target), [])],
  ])

  const checks = [
    ['C++ tests', nativeTests],
    ['generate', writesTheSame],
    ['compress', compress],
    ...library.map((name) => [`library: ${name}`, () => libraryTest(name)]),
    ...more.map(([name, check]) => [name, () => check({ flrc, tiny })]),
  ]
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
    const program = target.run(path.join(root, nativeTestsOf(target)[0]), [])
    const { passed, problem, output } = await runProgram({ ...program, limit })
    assert.equal(problem, undefined, `${problem}\n${output}`)
    console.log(`     ${passed} passed`)
  }

  function libraryTest(name) {
    const { passed, failed } = countsOf(
      node(target, [path.join(root, 'build/ts/test', `${name}.test.js`)], { cwd: root }),
    )
    assert.ok(passed > 0 && failed === 0, `${passed} passed, ${failed} failed`)
    console.log(`     ${passed} passed`)
  }

  function install() {
    writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n')
    const options = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts']
    run({ command: npm[0], args: [...npm.slice(1), 'install', ...options, path.join(root, tarball)] })
    if (!attached) return
    const binary = path.join('prebuilds', target.name)
    cpSync(path.join(root, binary), path.join(beside, binary), { recursive: true })
  }

  function writesTheSame() {
    const [expected, found] = [host, target].map((on) => {
      const { tokenIds } = flrc(on, ['generate', tiny, '-p', 'Once upon a time', '--max-tokens', '16'])
      return { tokenIds, perplexity: perplexity(on, tiny) }
    })
    assert.deepEqual(found.tokenIds, expected.tokenIds)
    assertNear(found.perplexity, expected.perplexity)
  }

  function compress() {
    const text = path.join(tiny, 'calibration.txt')
    // In f32: what is rounded in bf16 depends on the processor, and labels may be drawn otherwise after it.
    const options = ['--keep', '.8', '--levels', '.8,.6', '--samples', '4', '--seq-len', '64', '--dtype', 'f32']
    const compressed = (on, kernels) => {
      flrc(on, ['compress', tiny, '-o', 'small', '--calibration', text, ...options, '--overwrite'], {
        OPENBLAS_CORETYPE: kernels,
      })
      return perplexity(on, 'small')
    }
    const expected = compressed(host, '')
    for (const kernels of kernelSets) assertNear(compressed(target, kernels), expected)
  }

  function perplexity(on, model) {
    const text = path.join(tiny, 'heldout.txt')
    return flrc(on, ['eval', 'perplexity', model, '--text', text, '--seq-len', '64', '--windows', '4'])
      .perplexity
  }

  /** What a command of the program prints on a target; `status` is what it is to end with. */
  function flrc(on, args, env = {}, status = 0) {
    return JSON.parse(node(on, [path.join(installed, 'dist/cli/main.js'), ...args, '--json'], { env, status }))
  }

  /** What Node prints on a target. */
  function node(on, args, { env = {}, ...options } = {}) {
    const { command, args: first, env: own } = nodes.get(on)
    const binary = on === target && attached ? { FLRC_PREBUILD: beside } : {}
    return run({ command, args: [...first, ...args], env: { ...own, ...binary, ...env }, ...options })
  }

  function run({ command, args, env = {}, cwd = folder, status: expected = 0 }) {
    // Node for Windows cannot write to the pipes that Wine hands on.
    const [output, errors] = ['stdout', 'stderr'].map((name) => path.join(folder, name))
    const files = [output, errors].map((file) => openSync(file, 'w'))
    const { status, error } = spawnSync(command, args, {
      cwd,
      stdio: ['ignore', ...files],
      env: { ...process.env, OPENBLAS_CORETYPE: '', ...env },
    })
    for (const file of files) closeSync(file)
    const printed = readFileSync(output, 'utf8')
    const said = `${error?.message ?? ''}${printed}${readFileSync(errors, 'utf8')}`
    assert.equal(status, expected, `${command} ${args.join(' ')}\n${said}`)
    return printed
  }
}

function assertNear(value, expected) {
  assert.ok(Math.abs(value / expected - 1) < tolerance, `perplexity ${value}, on this machine ${expected}`)
}
