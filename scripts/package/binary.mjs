// What a binary must be before it is shipped: it runs wherever it claims to, shows nothing but Node-API's entry
// points, and tells nothing of the machine that built it. `node binary.mjs FILE` prints what is wrong.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { pathToFileURL } from 'node:url'
import { root } from '../setup/log.mjs'

/** Debian 12, Ubuntu 22.04, RHEL 9 and later have it. */
export const oldestGlibc = '2.34'

/** Shared libraries of glibc itself. Those of C++, GCC, Fortran and OpenBLAS are linked in. */
const allowedLibraries = /^(libc|libm|libdl|libpthread|librt)\.so\.\d$|^ld-linux-[\w-]+\.so\.\d$/
/** What Node-API asks an addon for. */
export const addonEntryPoints = ['napi_register_module_v1', 'node_api_module_get_api_version_v1']
/** Folders where sources lie while they are built: a person's home, Debian's builders, CI's. */
const buildFolders =
  /(?:\/home\/|\/Users\/|\/root\/|\/build\/|\/builds\/|\/runner\/|\/node_modules\/)[\w./+-]{3,}/

/** Everything wrong with an ELF file, a line each; none where it may be shipped. It shows `entryPoints` and no more. */
export function binaryProblems(file, entryPoints = addonEntryPoints) {
  return [...libraryProblems(file), ...symbolProblems(file, entryPoints), ...pathProblems(file)]
}

function libraryProblems(file) {
  const dynamic = readelf('--dynamic', file)
  const needed = [...dynamic.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name]) => name)
  const problems = needed
    .filter((name) => !allowedLibraries.test(name))
    .map((name) => `needs the shared library ${name}`)
  const searched = /\((?:RPATH|RUNPATH)\).*\[(.+)\]/.exec(dynamic)?.[1]
  if (searched !== undefined) problems.push(`looks for libraries in ${searched}`)
  const newer = [...new Set(readelf('--version-info', file).match(/GLIBC_[\d.]+/g) ?? [])]
    .map((version) => version.slice('GLIBC_'.length))
    .filter((version) => compareVersions(version, oldestGlibc) > 0)
  if (newer.length > 0)
    problems.push(`needs glibc ${newer.sort(compareVersions).at(-1)}, newer than ${oldestGlibc}`)
  return problems
}

function symbolProblems(file, entryPoints) {
  // Num: Value Size Type Bind Vis Ndx Name
  const rows = readelf('--dyn-syms', file)
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([number, , , , bind]) => /^\d+:$/.test(number ?? '') && /^(GLOBAL|WEAK|UNIQUE)$/.test(bind ?? ''))
  const shown = rows.filter((row) => row[6] !== 'UND').map((row) => row[7])
  const others = shown.filter((name) => !entryPoints.includes(name))
  const problems = entryPoints
    .filter((name) => !shown.includes(name))
    .map((name) => `lacks the entry point ${name}`)
  if (others.length > 0) problems.push(`shows ${others.length} symbols of its inside, such as ${others[0]}`)
  return problems
}

/** A path of the machine that built a file, where there is one in it. */
export function foreignPath(file) {
  const text = readFileSync(file, 'latin1')
  const own = [root, homedir()].find((folder) => folder.length > 1 && text.includes(`${folder}/`))
  return own ?? buildFolders.exec(text)?.[0]
}

function pathProblems(file) {
  const found = foreignPath(file)
  const problems = found === undefined ? [] : [`holds a path of the machine that built it: ${found}`]
  if (/ \.(debug_info|symtab) /.test(readelf('--section-headers', file))) problems.push('is not stripped')
  return problems
}

function readelf(option, file) {
  const { status, stdout, stderr, error } = spawnSync('readelf', ['--wide', option, file], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
    env: { ...process.env, LC_ALL: 'C' },
  })
  if (status !== 0) throw new Error(`readelf ${option} ${file}: ${error?.message ?? stderr}`)
  return stdout
}

function compareVersions(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number))
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const problems = binaryProblems(process.argv[2] ?? '')
  for (const problem of problems) console.log(problem)
  process.exitCode = problems.length > 0 ? 1 : 0
}
