// Lists C++ sources for binding.gyp, so that a new file needs no entry there:
// `node sources.mjs core|addon|tests|cuda-tests|bench [PLATFORM]` prints their paths from the repository's root, one a
// line; of native/platform those of PLATFORM, by Node's name, or of this machine.
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))

const [name, platform = process.platform] = process.argv.slice(2)
/** Where the platforms differ. What only the addon may hold is in folders of their own there. */
const systems = { linux: ['posix', 'linux'], darwin: ['posix', 'mac'], win32: ['windows'] }
const systemFolders = (systems[platform] ?? []).map((folder) => `native/platform/${folder}`)

const groups = {
  // Everything that knows nothing of Node.
  core: () => [
    ...subfolders('native')
      .filter((folder) => folder !== 'native/platform')
      .flatMap((folder) => sourcesUnder(folder, true)),
    ...systemFolders.flatMap((folder) => sourcesUnder(folder, false)),
  ],
  addon: () =>
    ['native', ...systemFolders.map((folder) => `${folder}/addon`)].flatMap((folder) =>
      sourcesUnder(folder, false),
    ),
  tests: () => sourcesUnder('test/native', true),
  'cuda-tests': () => [
    ...sourcesUnder('test/cuda', true),
    ...['check', 'dropped', 'fixture', 'reference', 'whitened'].map((name) => `test/native/${name}.cc`),
  ],
  bench: () => sourcesUnder('bench/native', true),
}

function subfolders(folder) {
  return entriesOf(folder)
    .filter((entry) => entry.isDirectory())
    .map((entry) => path.posix.join(folder, entry.name))
    .sort()
}

function sourcesUnder(folder, deep) {
  const own = entriesOf(folder)
    .filter((entry) => entry.isFile() && entry.name.endsWith('.cc'))
    .map((entry) => path.posix.join(folder, entry.name))
    .sort()
  return deep ? [...own, ...subfolders(folder).flatMap((inner) => sourcesUnder(inner, true))] : own
}

function entriesOf(folder) {
  const absolute = path.join(root, folder)
  return existsSync(absolute) ? readdirSync(absolute, { withFileTypes: true }) : []
}

const group = groups[name]
if (group === undefined) {
  console.error(`sources.mjs: give one of ${Object.keys(groups).join(', ')}`)
  process.exit(2)
}
console.log(group().join('\n'))
