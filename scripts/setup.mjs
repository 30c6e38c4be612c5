#!/usr/bin/env node
// Makes what is missing, then runs a command: what stands behind `npm run build`, `npm run demo` and the
// others, from a bare clone on. Needs nothing but Node itself.
import path from 'node:path'
import { comesAsWheel } from './native/openblas.mjs'
import { ensureCross, ensureWine } from './setup/cross.mjs'
import {
  ensureCudaPlugin,
  ensureCudaSystemPackages,
  ensureCudaToolchain,
  ensureFatCudaPlugin,
} from './setup/cuda.mjs'
import { packCudaDemo } from './setup/cuda-demo.mjs'
import { ensureCudaTarball } from './setup/cuda-package.mjs'
import { ensureCudaPrograms } from './setup/cuda-programs.mjs'
import { handOver, root, StepError } from './setup/log.mjs'
import { ensureAddon, ensureNativeBench, ensureNativeTests } from './setup/native.mjs'
import { ensureOpenBlasWheel } from './setup/openblas-wheel.mjs'
import { ensureNode } from './setup/other-node.mjs'
import { ensurePrebuild, ensureTarball, tarball } from './setup/package.mjs'
import { ensureNodeModules } from './setup/packages.mjs'
import { ensureSystemPackages } from './setup/system.mjs'
import { host, linuxArm64, win32X64 } from './setup/targets.mjs'
import { ensureLibrary, ensureTestCode } from './setup/typescript.mjs'

const prepared = [
  ensureSystemPackages,
  ensureNodeModules,
  ...(comesAsWheel(host.name) ? [() => ensureOpenBlasWheel(host.name)] : []),
]
const built = [...prepared, ensureAddon, ensureLibrary]
const released = [host, linuxArm64]
const packedForRelease = [
  ...built,
  ensurePrebuild,
  () => ensureCross(linuxArm64),
  () => ensureAddon(linuxArm64),
  () => ensurePrebuild(linuxArm64),
  () => ensureTarball(released),
]

const builtForWindows = [
  () => ensureCross(win32X64),
  () => ensureAddon(win32X64),
  () => ensurePrebuild(win32X64),
]

const cuda = [ensureCudaSystemPackages, ensureNodeModules, ensureCudaToolchain]

const commands = {
  build: { steps: built },
  demo: { steps: built, run: ['dist/cli/main.js', 'demo'] },
  // The runner builds for itself, so that a file that does not compile is counted like any failed test.
  test: { steps: prepared, run: ['scripts/test.mjs'] },
  'test:cuda-emulated': { steps: prepared, run: ['scripts/test.mjs', 'cuda kernels', 'flrc_cuda_test'] },
  'check:full': { steps: prepared, run: ['scripts/check-full.mjs'] },
  'build:prebuilds': { steps: [...built, ensurePrebuild] },
  pack: {
    steps: [...built, ensurePrebuild, ensureTarball],
    run: ['scripts/package/tarball.mjs', tarball, host.name],
  },
  'pack:release': {
    steps: packedForRelease,
    run: ['scripts/package/tarball.mjs', tarball, ...released.map(({ name }) => name)],
  },
  'check:arm64': {
    steps: [...packedForRelease, () => ensureNativeTests(linuxArm64), () => ensureNode(20, linuxArm64)],
    run: ['scripts/check-arm64.mjs'],
  },
  'build:win32': { steps: [...prepared, ...builtForWindows] },
  'check:win32': {
    steps: [
      ...built,
      ensurePrebuild,
      ensureTarball,
      ...builtForWindows,
      ensureTestCode,
      () => ensureNativeTests(win32X64),
      () => ensureNode(20, win32X64),
      () => ensureWine(win32X64),
    ],
    run: ['scripts/check-win32.mjs'],
  },
  'build:cuda': { steps: [...cuda, ensureCudaPlugin] },
  'build:cuda:programs': { steps: [...cuda, ensureCudaPrograms] },
  'build:cuda:fat': { steps: [...cuda, ensureFatCudaPlugin] },
  'pack:cuda': { steps: [...cuda, ensureCudaTarball] },
  'pack:cuda-demo': { steps: [...built, ensurePrebuild, ...cuda, ensureCudaPlugin, packCudaDemo] },
  bench: { steps: [...built, ensureNativeBench, ensureTestCode], run: ['scripts/bench.mjs'] },
  'bench:progressive': { steps: [...built, ensureTestCode], run: ['scripts/bench.mjs', 'progressive'] },
  docs: { steps: prepared, run: ['node_modules/typedoc/bin/typedoc'] },
  'bench:quality': { steps: [...built, ensureTestCode], run: ['scripts/bench.mjs', 'quality'] },
}

async function main([name, ...args]) {
  const command = Object.hasOwn(commands, name ?? '') ? commands[name] : undefined
  if (command === undefined) {
    process.stderr.write(`usage: node scripts/setup.mjs ${Object.keys(commands).join('|')} [arguments]\n`)
    return 2
  }
  const [major, minor] = process.versions.node.split('.').map(Number)
  const leastMinor = { 20: 19, 21: Number.POSITIVE_INFINITY, 22: 12 }[major] ?? 0
  if (major < 20 || minor < leastMinor) {
    process.stderr.write(
      `flrc needs Node 20.19 or newer of 20, or 22.12 or newer; this is ${process.versions.node}\n`,
    )
    return 1
  }
  for (const step of command.steps) await step()
  if (command.run === undefined) return 0
  const [script, ...first] = command.run
  return handOver(process.execPath, [path.join(root, script), ...first, ...args])
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof StepError)) throw error
  process.stderr.write(`${error.explain()}\n`)
  // Whoever counts tests must see that these did not run.
  if (process.argv[2] === 'test' || process.argv[2] === 'check:full') console.log('0 passed, 1 failed')
  process.exitCode = 1
}
