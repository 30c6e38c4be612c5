// What bench/cuda.sh builds and runs on a GPU machine, compiled here for one chip: an error of the compiler would
// otherwise show only there.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { buildCudaEngine, buildCudaKernelPrograms } from './cuda.mjs'
import { root, StepError } from './log.mjs'

/** Compiles them, and sees that all suites which their parts need are there. */
export async function ensureCudaPrograms() {
  const { tests, kernels } = await buildCudaKernelPrograms()
  const engine = await buildCudaEngine()
  const suites = new Set(linesOf(tests, '--names').map((name) => name.split(': ')[0]))
  for (const program of [kernels, engine]) {
    for (const [part, needs] of linesOf(program).map((line) => line.split('\t'))) {
      const missing = needs.split(',').filter((suite) => suite !== '' && !suites.has(suite))
      if (missing.length > 0)
        throw new StepError('CUDA programs', `${part} needs tests of ${missing}, which there are none of`)
    }
  }
}

function linesOf(program, ...args) {
  const { status, stdout } = spawnSync(path.join(root, program), args, { encoding: 'utf8' })
  const lines = stdout?.trimEnd().split('\n') ?? []
  if (status === 0 && lines.length > 1) return lines
  throw new StepError('CUDA programs', `${program} does not list what is in it`)
}
