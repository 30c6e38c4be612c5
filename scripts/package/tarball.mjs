// What the packed package must be: small, with all that users need, and nothing that npm would build or run on
// their machines. `node tarball.mjs FILE PLATFORM ...` prints its contents by folder and what is wrong.
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

const largest = 12_000_000

const required = [
  'package.json',
  'README.md',
  'LICENSE',
  'THIRD-PARTY-NOTICES.md',
  'dist/index.js',
  'dist/index.d.ts',
  'index.d.cts',
  'dist/cli/main.js',
  'models/tiny/model.safetensors',
  'models/tiny/calibration.txt',
  'examples/compress.mjs',
]
/** npm runs node-gyp where it sees a binding.gyp; sources without it build nowhere. */
const unwanted =
  /^(binding\.gyp|native\/|cuda\/|test\/|bench\/|scripts\/|build\/|node_modules\/)|\.(map|tgz|log)$/
const installScripts = ['preinstall', 'install', 'postinstall', 'prepare']

/** Everything wrong with the tarball, a line each. `prebuilds`: folders that must hold a binary. */
export function tarballProblems(file, prebuilds) {
  const { size } = statSync(file)
  const names = filesIn(file).map(({ name }) => name)
  const problems = required.filter((name) => !names.includes(name)).map((name) => `lacks ${name}`)
  if (size > largest) problems.push(`has ${size} bytes, more than ${largest}`)
  for (const name of names) if (unwanted.test(name)) problems.push(`holds ${name}`)
  for (const platform of prebuilds) {
    const binary = (name) => name.startsWith(`prebuilds/${platform}/`) && name.endsWith('.node')
    if (!names.some(binary)) problems.push(`lacks a binary for ${platform}`)
  }
  const manifest = JSON.parse(tar('-xzOf', file, 'package/package.json'))
  if (manifest.gypfile !== false) problems.push('lets npm build it: "gypfile" is not false')
  for (const name of installScripts) {
    if (manifest.scripts?.[name] !== undefined) problems.push(`runs the script ${name} on install`)
  }
  return problems
}

/** `{ name, size }` of every file. */
export function filesIn(file) {
  return tar('-tvzf', file)
    .trimEnd()
    .split('\n')
    .map((line) => /^-\S+ +\S+ +(\d+) \S+ \S+ package\/(.+)$/.exec(line))
    .filter(Boolean)
    .map(([, size, name]) => ({ name, size: Number(size) }))
}

function tar(...args) {
  const { status, stdout, stderr } = spawnSync('tar', args, { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status !== 0) throw new Error(`tar ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** Bytes by the first folder, or by file at the top, as a Markdown table. */
function table(file) {
  const groups = new Map()
  for (const { name, size } of filesIn(file)) {
    const parts = name.split('/')
    const group = parts.length === 1 ? name : parts[0] === 'prebuilds' ? name : `${parts[0]}/`
    const { files, bytes } = groups.get(group) ?? { files: 0, bytes: 0 }
    groups.set(group, { files: files + 1, bytes: bytes + size })
  }
  const rows = [...groups].sort((a, b) => b[1].bytes - a[1].bytes)
  const total = rows.reduce((sum, [, { bytes }]) => sum + bytes, 0)
  return [
    '| in the tarball | files | bytes |',
    '| --- | ---: | ---: |',
    ...rows.map(([group, { files, bytes }]) => `| \`${group}\` | ${files} | ${bytes} |`),
    `| unpacked | | ${total} |`,
    `| packed | | ${statSync(file).size} |`,
  ].join('\n')
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [file = '', ...platforms] = process.argv.slice(2)
  console.log(table(file))
  const problems = tarballProblems(file, platforms)
  for (const problem of problems) console.log(problem)
  process.exitCode = problems.length > 0 ? 1 : 0
}
