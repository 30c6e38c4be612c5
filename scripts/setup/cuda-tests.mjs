// What of CUDA is tested without a GPU, by g++: the kernels with the emulator and their tests in one program, and the
// plugin for the emulator.
import { mkdirSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { root, runStep } from './log.mjs'
import { hashOf, once } from './stamp.mjs'
import { versionOf } from './system.mjs'

const compiler = process.env.CXX ?? 'g++'
const flags = [
  '-std=c++20',
  '-O2',
  '-fPIC',
  '-fvisibility=hidden',
  // As nvcc does with the functions that kernels use.
  '-ffp-contract=off',
  // What a kernel forgets to set is no zero by chance.
  '-ftrivial-auto-var-init=pattern',
  // The emulator's long jumps go from stack to stack, which a checked one would take for an error.
  '-U_FORTIFY_SOURCE',
  '-Wall',
  '-Wextra',
  ...['native', 'cuda', 'test/native'].map((folder) => `-I${folder}`),
]
const shared = ['cuda/emulator', 'cuda/kernels', 'cuda/runtime']
const tests = [
  'cuda/test',
  'cuda/test/runtime',
  'test/native/check.cc',
  'native/platform/posix/memory.cc',
  'native/tensor/matrix.cc',
  'native/tensor/run.cc',
]
const headers = [
  'test/native/check.h',
  'native/tensor',
  'native/core',
  'native/linalg/clipping.h',
  'native/platform/memory.h',
  'native/backend.h',
  'native/model/activation.h',
]
const folder = 'build/cuda-tests'

export const cudaTests = [`${folder}/flrc_cuda_test`]
const plugin = `${folder}/flrc_cuda.so`

/** Builds the kernel tests, and the plugin that test/cuda opens. */
export function ensureCudaTests() {
  const inputs = [...shared, ...tests, ...headers]
  const hash = hashOf(inputs, [versionOf(compiler), flags.join(' ')])
  return once('cuda-tests', hash, [...cudaTests, plugin], async () => {
    mkdirSync(path.join(root, folder), { recursive: true })
    const sources = [...shared, ...tests].flatMap(sourcesIn)
    const waiting = sources.map((source) => ['-x', 'c++', '-c', source, '-o', objectOf(source)])
    const worker = async () => {
      for (let args = waiting.shift(); args !== undefined; args = waiting.shift()) {
        const name = path.basename(args.at(-1), '.o')
        await runStep(`CUDA tests: ${name}`, compiler, [...flags, ...args], { name: `cuda-tests-${name}` })
      }
    }
    await Promise.all(Array.from({ length: availableParallelism() }, worker))
    await link(cudaTests[0], [...shared, ...tests], ['-ldl'])
    await link(plugin, shared, ['-shared', '-ldl'])
  })
}

async function link(output, parts, options = []) {
  const objects = parts.flatMap(sourcesIn).map(objectOf)
  const name = path.basename(output)
  await runStep(`CUDA tests: link ${name}`, compiler, [...objects, ...options, '-o', output], {
    name: `cuda-tests-link-${name}`,
  })
}

function objectOf(source) {
  return path.join(folder, `${source.replaceAll('/', '-')}.o`)
}

/** The file itself, or the sources in a folder. */
function sourcesIn(part) {
  if (path.extname(part) !== '') return [part]
  return readdirSync(path.join(root, part))
    .filter((file) => /\.(cc|cu)$/.test(file))
    .sort()
    .map((file) => path.join(part, file))
}
