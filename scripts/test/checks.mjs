import { spawnSync } from 'node:child_process'
import { formatNative } from '../format-native.mjs'
import { noticesProblem } from '../package/notices.mjs'
import {
  cudaToolchainIsThere,
  ensureCudaPlugin,
  ensureCudaSystemPackages,
  ensureCudaToolchain,
} from '../setup/cuda.mjs'
import { ensureCudaTests } from '../setup/cuda-tests.mjs'
import { root, StepError } from '../setup/log.mjs'
import { ensureAddon, ensureNativeTests } from '../setup/native.mjs'
import { ensurePrebuild, ensureTarball } from '../setup/package.mjs'
import { clangFormat } from '../setup/system.mjs'
import { ensureLibrary, ensureTestCode } from '../setup/typescript.mjs'

/**
 * Checks that are no test programs; each counts as one test. `run` resolves to undefined when all is well, to
 * `{ problem, output }`, or to `{ skip }`. Those that build come in the order in which they need each other, and say
 * which programs they are for: `native` tests, `cuda` ones or `TypeScript` ones.
 */
export const checks = [
  { name: 'biome', run: biome },
  { name: 'clang-format', run: nativeFormat },
  { name: 'notices', run: notices },
  { name: 'addon', builds: 'TypeScript', run: () => builds(ensureAddon) },
  { name: 'types', builds: 'TypeScript', run: () => builds(ensureLibrary) },
  { name: 'package', builds: 'TypeScript', run: () => builds(ensurePackage) },
  { name: 'test types', builds: 'TypeScript', run: () => builds(ensureTestCode) },
  { name: 'native tests', builds: 'native', run: () => builds(ensureNativeTests) },
  { name: 'cuda kernels', builds: 'cuda', run: () => builds(ensureCudaTests) },
  { name: 'CUDA plugin', run: cudaPlugin },
]

function biome() {
  const args = ['node_modules/@biomejs/biome/bin/biome', 'ci', '--error-on-warnings', '--colors=off', '.']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' })
  if (status === 0) return undefined
  return { problem: 'format or lint; `npm run format` mends what it can', output: `${stdout}${stderr}` }
}

function nativeFormat() {
  const result = formatNative({ write: false })
  if (result === undefined) return { skip: `${clangFormat} is not installed` }
  return result.ok ? undefined : { problem: 'format; `npm run format` mends it', output: result.output }
}

function notices() {
  const problem = noticesProblem()
  return problem && { problem, output: 'run: node scripts/package/notices.mjs --write' }
}

async function ensurePackage() {
  await ensurePrebuild()
  await ensureTarball()
}

/** Compiling needs no GPU, but minutes and a toolchain that not everybody wants to download: CI does. */
async function cudaPlugin() {
  if (!cudaToolchainIsThere()) {
    if (process.env.CI !== 'true' || process.arch !== 'x64') {
      return { skip: 'the CUDA toolchain is not installed; npm run build:cuda does that' }
    }
    const missing = await builds(installCudaToolchain)
    if (missing) return { skip: `the CUDA toolchain cannot be installed: ${missing.output}` }
  }
  return builds(ensureCudaPlugin)
}

async function installCudaToolchain() {
  await ensureCudaSystemPackages()
  await ensureCudaToolchain()
}

async function builds(ensure) {
  try {
    await ensure()
    return undefined
  } catch (error) {
    if (!(error instanceof StepError)) throw error
    return { problem: 'does not build', output: error.explain() }
  }
}
