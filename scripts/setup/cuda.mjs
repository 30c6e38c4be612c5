// The CUDA plugin, and the toolchain that builds it without NVIDIA's installer: wheels of PyPI, unpacked into
// build/cuda/toolchain.
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { pluginProblems } from '../package/plugin.mjs'
import { root, runStep, StepError } from './log.mjs'
import { hashOf, once } from './stamp.mjs'
import { ensureSystemPackages, pip, versionOf } from './system.mjs'

const toolchain = 'build/cuda/toolchain'
const requirements = 'scripts/setup/cuda-requirements.txt'
const nvidia = `${toolchain}/nvidia/cu13`
const compiler = `${nvidia}/bin/nvcc`
/** What NVIDIA says of the run-time library, which is linked in. */
export const cudaLicense = `${toolchain}/nvidia_cuda_runtime-13.0.96.dist-info/licenses/License.txt`
export const fatPlugin = 'build/cuda/fat/flrc_cuda.so'
const cmake = `${toolchain}/cmake/data/bin/cmake`
const sources = [
  'cuda',
  'native/backend.h',
  'native/model/activation.h',
  'native/tensor/dtype.h',
  'native/platform/linux/addon/unwind.cc',
  requirements,
  'scripts/setup/cuda.mjs',
  'scripts/package',
]

/**
 * Chips that are compiled for: 90a compiles what only Hopper has, and the PTX of 80, which any later chip turns into
 * its own code, all the rest. The shipped plugin spares the common chips that.
 */
const targets = {
  quick: '90a-real;80-virtual',
  fat: '80-real;86-real;89-real;90a-real;100-real;120-real;120-virtual',
}

/** What the toolchain needs of the system. */
export function ensureCudaSystemPackages() {
  return ensureSystemPackages([pip])
}

export function cudaToolchainIsThere() {
  return existsSync(path.join(root, compiler))
}

/** Installs the toolchain, some 1.2 GB. */
export function ensureCudaToolchain() {
  return once('cuda-toolchain', hashOf([requirements]), [compiler, cmake], async () => {
    if (process.arch !== 'x64') {
      throw new StepError('CUDA toolchain', `there is none for ${process.arch} in ${requirements}`)
    }
    rmSync(path.join(root, toolchain), { recursive: true, force: true })
    const options = [
      '--no-deps',
      '--no-compile',
      '--no-cache-dir',
      '--only-binary',
      ':all:',
      '--require-hashes',
    ]
    const quiet = ['--disable-pip-version-check', '--root-user-action', 'ignore']
    const args = ['-m', 'pip', 'install', ...quiet, ...options, '--target', toolchain, '-r', requirements]
    await runStep('CUDA toolchain', 'python3', args, { name: 'cuda-toolchain' })
    linkLibraries(path.join(root, nvidia))
  })
}

/** What nvcc and CMake look for, and the wheels leave out. */
function linkLibraries(folder) {
  symlinkSync('lib', path.join(folder, 'lib64'))
  for (const file of readdirSync(path.join(folder, 'lib'))) {
    const plain = /^(lib\w+\.so)\.\d+$/.exec(file)?.[1]
    if (plain !== undefined && !existsSync(path.join(folder, 'lib', plain))) {
      symlinkSync(file, path.join(folder, 'lib', plain))
    }
  }
}

/** Builds the plugin for one kind of chip and, as PTX, any other: build/cuda/flrc_cuda.so. */
export function ensureCudaPlugin() {
  return ensurePlugin('quick', 'build/cuda/flrc_cuda.so')
}

/** Builds the plugin for all chips, as it is shipped. */
export function ensureFatCudaPlugin() {
  return ensurePlugin('fat', fatPlugin)
}

function ensurePlugin(kind, output) {
  const hash = hashOf(sources, [targets[kind], versionOf(process.env.CXX ?? 'g++')])
  return once(`cuda-${kind}`, hash, [output], async () => {
    await buildWithCmakeJs(kind, `CUDA plugin for ${targets[kind]}`)
    const folder = path.join(root, 'build/cuda', kind)
    const built = path.join(folder, 'Release', 'flrc_cuda.so')
    const problems = pluginProblems(built)
    if (problems.length > 0)
      throw new StepError('CUDA plugin', problems.join('\n'), 'see scripts/package/plugin.mjs')
    mkdirSync(path.dirname(path.join(root, output)), { recursive: true })
    // Renamed into place: a plugin that is open goes on as it was.
    copyFileSync(built, path.join(root, `${output}.new`))
    renameSync(path.join(root, `${output}.new`), path.join(root, output))
  })
}

/** The engine of bench/cuda.sh, from the objects of the plugin that ensureCudaPlugin builds. */
export async function buildCudaEngine() {
  await buildWithCmakeJs('quick', 'CUDA engine', ['--target', 'flrc_cuda_engine'])
  return 'build/cuda/quick/flrc_cuda_engine'
}

/** The tests and timings of kernels that bench/cuda.sh runs, for sm_90a. */
export async function buildCudaKernelPrograms() {
  const folder = 'build/cuda/programs'
  const options = Object.entries(cmakeOptions('90a-real')).map(([key, value]) => `-D${key}=${value}`)
  const title = 'CUDA kernels, their tests and timings'
  for (const args of [
    ['-S', 'cuda/test', '-B', folder, '-G', 'Ninja', ...options],
    ['--build', folder, '--parallel', String(availableParallelism())],
  ]) {
    await runStep(title, path.join(root, cmake), args, { name: 'cuda-programs' })
  }
  return { tests: `${folder}/flrc_cuda_test`, kernels: `${folder}/flrc_cuda_bench` }
}

async function buildWithCmakeJs(kind, title, more = []) {
  const args = [
    path.join(root, 'node_modules/cmake-js/bin/cmake-js'),
    'build',
    ...['--directory', path.join(root, 'cuda'), '--out', path.join(root, 'build/cuda', kind)],
    ...['--cmake-path', path.join(root, cmake), '--generator', 'Ninja'],
    ...['--parallel', String(availableParallelism())],
    ...Object.entries(cmakeOptions(targets[kind])).map(([key, value]) => `--CD${key}=${value}`),
    ...more,
  ]
  await runStep(title, process.execPath, args, { name: `cuda-${kind}` })
}

function cmakeOptions(architectures) {
  return {
    CMAKE_CUDA_COMPILER: path.join(root, compiler),
    CMAKE_CUDA_ARCHITECTURES: architectures,
    CUDAToolkit_ROOT: path.join(root, nvidia),
    CMAKE_MAKE_PROGRAM: path.join(root, toolchain, 'bin/ninja'),
  }
}
