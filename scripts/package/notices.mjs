// THIRD-PARTY-NOTICES.md: the licences of what is compiled into the addon and of the npm packages that are
// installed with this one. `node notices.mjs --write` writes it; the tests check that it is up to date.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from '../setup/log.mjs'

const file = path.join(root, 'THIRD-PARTY-NOTICES.md')

/** Whose machine code is in the addon. */
const compiledIn = [
  { name: 'OpenBLAS', license: 'BSD-3-Clause', text: 'openblas.txt' },
  { name: 'LAPACK', license: 'BSD-3-Clause', text: 'lapack.txt' },
  { name: 'Highway', license: 'Apache-2.0', text: 'highway.txt' },
  { name: 'libstdc++ and libgcc', license: 'GPL-3.0-or-later WITH GCC-exception-3.1', text: 'gcc.txt' },
]
const compiledInPackages = ['node_modules/node-addon-api']

const licenseNames = /^(licen[cs]e|copying|notice)/i

/** The whole file, from the packages as they are installed. */
export function noticesText() {
  return [
    '# Third-party notices',
    'Made by `node scripts/package/notices.mjs --write`.',
    '## In the native addon',
    ...compiledIn.map(compiledInSection),
    ...compiledInPackages.map(packageSection),
    '## Packages that npm installs beside this one',
    ...installedPackages().map(packageSection),
    '',
  ].join('\n\n')
}

/** The notices of the CUDA plugin; `cudaLicense`: the file that comes with NVIDIA's run-time library. */
export function pluginNotices(cudaLicense) {
  const compiler = compiledIn.filter(({ text }) => text === 'gcc.txt')
  const parts = [
    section('CUDA run-time library', 'NVIDIA CUDA Toolkit EULA', readFileSync(cudaLicense, 'utf8')),
    ...compiler.map(compiledInSection),
  ]
  return ['# Third-party notices', '## In the plugin', ...parts, ''].join('\n\n')
}

/**
 * The notices of a binary that has OpenBLAS beside it. `openBlas`: the file that comes with that; `mingw`: the one of
 * MinGW-w64, where that has built the binary and is in it, with GCC's libraries.
 */
export function besideNotices(openBlas, mingw) {
  const compiler = mingw === undefined ? [] : compiledIn.filter(({ text }) => text === 'gcc.txt')
  const parts = [
    section(
      'OpenBLAS, LAPACK and what they are built with',
      'BSD-3-Clause and others',
      readFileSync(openBlas, 'utf8'),
    ),
    ...(mingw === undefined ? [] : [section('MinGW-w64', 'ZPL-2.1 and others', readFileSync(mingw, 'utf8'))]),
    ...[...compiler, ...compiledIn.filter(({ text }) => text === 'highway.txt')].map(compiledInSection),
    ...compiledInPackages.map(packageSection),
  ]
  return ['# Third-party notices', '## In the native addon and beside it', ...parts, ''].join('\n\n')
}

/** Why the file in the repository is not what it should be, or undefined. */
export function noticesProblem() {
  const found = existsSync(file) ? readFileSync(file, 'utf8') : ''
  return found === noticesText() ? undefined : 'THIRD-PARTY-NOTICES.md is out of date'
}

/** Folders of what the lock file has beside development dependencies. */
export function installedPackages() {
  const { packages } = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8'))
  return Object.keys(packages)
    .filter((folder) => folder !== '' && !packages[folder].dev && !packages[folder].devOptional)
    .sort()
}

function compiledInSection({ name, license, text }) {
  return section(name, license, readFileSync(path.join(root, 'scripts/package/licenses', text), 'utf8'))
}

function packageSection(folder) {
  const absolute = path.join(root, folder)
  const { name, version, license } = JSON.parse(readFileSync(path.join(absolute, 'package.json'), 'utf8'))
  const texts = readdirSync(absolute)
    .filter((entry) => licenseNames.test(entry))
    .sort()
    .map((entry) => readFileSync(path.join(absolute, entry), 'utf8'))
  return section(`${name} ${version}`, license, texts.join('\n'))
}

function section(title, license, text) {
  const body = text.replaceAll('\r\n', '\n').trim()
  const block =
    body === '' ? 'The package carries no licence text beside this name.' : `\`\`\`text\n${body}\n\`\`\``
  return `### ${title} (${license})\n\n${block}`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  if (process.argv[2] === '--write') writeFileSync(file, noticesText())
  else if (noticesProblem()) {
    console.error(`${noticesProblem()}; run node scripts/package/notices.mjs --write`)
    process.exitCode = 1
  }
}
