// What the CUDA plugin must be before it is shipped. `node plugin.mjs FILE` prints what is wrong.
import { statSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { binaryProblems } from './binary.mjs'

/** Kernels for six chips and PTX have 4; a template instantiated too often shows here. */
const largest = 10_000_000

/** Everything wrong with the file, a line each. The driver and NVIDIA's libraries are opened at run time. */
export function pluginProblems(file) {
  const { size } = statSync(file)
  const problems = binaryProblems(file, ['flrc_backend'])
  if (size > largest) problems.push(`has ${size} bytes, more than ${largest}`)
  return problems
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const problems = pluginProblems(process.argv[2] ?? '')
  for (const problem of problems) console.log(problem)
  process.exitCode = problems.length > 0 ? 1 : 0
}
