// The tests of the CUDA kernels for a machine without a GPU: kernels, emulator and tests in one program, by g++.
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
const own = ['cuda/emulator', 'cuda/kernels', 'cuda/test']
const borrowed = ['test/native/check.cc', 'native/tensor/matrix.cc']
const headers = ['test/native/check.h', 'native/tensor', 'native/core']

export const cudaTests = ['build/cuda-tests/flrc_cuda_test']

/** Builds the kernel tests. */
export function ensureCudaTests() {
  const [output] = cudaTests
  const folder = path.dirname(output)
  const hash = hashOf([...own, ...borrowed, ...headers], [versionOf(compiler), flags.join(' ')])
  return once('cuda-tests', hash, cudaTests, async () => {
    mkdirSync(path.join(root, folder), { recursive: true })
    const sources = [...own.flatMap(sourcesIn), ...borrowed]
    const objects = sources.map((source) => path.join(folder, `${source.replaceAll('/', '-')}.o`))
    const waiting = sources.map((source, index) => ['-x', 'c++', '-c', source, '-o', objects[index]])
    const worker = async () => {
      for (let args = waiting.shift(); args !== undefined; args = waiting.shift()) {
        const name = path.basename(args.at(-1), '.o')
        await runStep(`CUDA tests: ${name}`, compiler, [...flags, ...args], { name: `cuda-tests-${name}` })
      }
    }
    await Promise.all(Array.from({ length: availableParallelism() }, worker))
    await runStep('CUDA tests: link', compiler, [...objects, '-o', output], { name: 'cuda-tests-link' })
  })
}

function sourcesIn(folder) {
  return readdirSync(path.join(root, folder))
    .filter((file) => /\.(cc|cu)$/.test(file))
    .sort()
    .map((file) => path.join(folder, file))
}
