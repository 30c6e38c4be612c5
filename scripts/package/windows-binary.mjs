// What a binary for Windows must be before it is shipped, as binary.mjs has it for Linux. `node windows-binary.mjs FILE`
// prints what is wrong.
import { spawnSync } from 'node:child_process'
import { pathToFileURL } from 'node:url'
import { win32X64 } from '../setup/targets.mjs'
import { addonEntryPoints, foreignPath } from './binary.mjs'

/** Libraries of Windows itself, the program that the addon is for, and OpenBLAS beside it. C++'s and GCC's are linked in. */
const allowedLibraries = /^(KERNEL32\.dll|msvcrt\.dll|node\.exe|libscipy_openblas\.dll)$/i

/** Everything wrong with an addon for Windows, a line each; none where it may be shipped. */
export function windowsBinaryProblems(file) {
  const headers = objdump('--private-headers', file)
  const needed = [...headers.matchAll(/DLL Name: (\S+)/g)].map(([, name]) => name)
  const problems = needed
    .filter((name) => !allowedLibraries.test(name))
    .map((name) => `needs the library ${name}`)
  const shown = [...headers.matchAll(/^\s*\[ *\d+\] (?:\+base\[ *\d+\] +[0-9a-f]+ )?([A-Za-z_]\w*)$/gm)].map(
    ([, name]) => name,
  )
  for (const name of addonEntryPoints) if (!shown.includes(name)) problems.push(`lacks the entry point ${name}`)
  const others = shown.filter((name) => !addonEntryPoints.includes(name))
  if (others.length > 0) problems.push(`shows ${others.length} symbols of its inside, such as ${others[0]}`)
  const found = foreignPath(file)
  if (found !== undefined) problems.push(`holds a path of the machine that built it: ${found}`)
  if (!/no symbols/.test(objdump('--syms', file))) problems.push('is not stripped')
  return problems
}

function objdump(option, file) {
  const program = win32X64.program('objdump')
  const { status, stdout, stderr, error } = spawnSync(program, [option, file], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, LC_ALL: 'C' },
  })
  if (status !== 0) throw new Error(`${program} ${option} ${file}: ${error?.message ?? stderr}`)
  return stdout
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const problems = windowsBinaryProblems(process.argv[2] ?? '')
  for (const problem of problems) console.log(problem)
  process.exitCode = problems.length > 0 ? 1 : 0
}
