import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { sharedLibraries, wheelLicense } from '../native/openblas.mjs'
import { binaryProblems } from '../package/binary.mjs'
import { besideNotices } from '../package/notices.mjs'
import { tarballProblems } from '../package/tarball.mjs'
import { windowsBinaryProblems } from '../package/windows-binary.mjs'
import { root, runStep, StepError } from './log.mjs'
import { addonOf } from './native.mjs'
import { npm } from './packages.mjs'
import { hashOf, once } from './stamp.mjs'
import { host } from './targets.mjs'

const { name, version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))

const mingwLicense = '/usr/share/doc/mingw-w64-x86-64-dev/copyright'

export const tarball = `build/package/${name}-${version}.tgz`

/** Makes the binary that is shipped from a target's addon: stripped, fit to run elsewhere, and with what it needs beside it. */
export function ensurePrebuild(target = host) {
  const addon = addonOf(target)
  const linux = target.platform === 'linux'
  // Named as prebuildify does with --napi --tag-libc, so that node-gyp-build finds it on glibc and not on musl.
  const prebuild = `prebuilds/${target.name}/flrc${linux ? '.glibc' : ''}.node`
  const inputs = hashOf([addon, 'scripts/package', 'scripts/setup/package.mjs'])
  return once(`prebuild-${target.name}`, inputs, [prebuild], async () => {
    mkdirSync(path.join(root, path.dirname(prebuild)), { recursive: true })
    // Nothing that fails the checks may lie where it would be packed.
    const candidate = path.join(root, 'build', `flrc-${target.name}.node`)
    copyFileSync(path.join(root, addon), candidate)
    const all = target.platform === 'darwin' ? '-x' : '--strip-all'
    await runStep('strip', target.program('strip'), [all, candidate], { name: 'strip', quiet: true })
    if (linux) refuse(prebuild, binaryProblems(candidate))
    if (target.platform === 'win32') refuse(prebuild, windowsBinaryProblems(candidate))
    // What changes a file on macOS breaks its signature, without which it does not load.
    if (target.platform === 'darwin')
      await runStep('codesign', 'codesign', ['--force', '--sign', '-', candidate], {
        name: 'sign',
        quiet: true,
      })
    renameSync(candidate, path.join(root, prebuild))
    const folder = path.join(root, path.dirname(prebuild))
    const libraries = sharedLibraries(target.name)
    for (const library of libraries) copyFileSync(library, path.join(folder, path.basename(library)))
    if (libraries.length === 0) return
    const mingw = target.platform === 'win32' ? mingwLicense : undefined
    const notices = besideNotices(wheelLicense(target.name), mingw)
    writeFileSync(path.join(folder, 'THIRD-PARTY-NOTICES.md'), notices)
  })
}

/** Packs the package with the binaries of these targets. */
export function ensureTarball(targets = [host]) {
  const names = targets.map((target) => target.name)
  keepPrebuilds(names)
  const { files } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
  const inputs = ['package.json', 'README.md', 'LICENSE', 'scripts/package', 'dist', ...files]
  return once('tarball', hashOf(inputs.filter((file) => !file.includes('*'))), [tarball], async () => {
    const folder = path.dirname(path.join(root, tarball))
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    // What the scripts would make is made already.
    const args = [...npm.slice(1), 'pack', '--ignore-scripts', '--pack-destination', folder]
    await runStep('npm pack', npm[0], args, { name: 'npm-pack', quiet: true })
    refuse(tarball, tarballProblems(path.join(root, tarball), names))
  })
}

/** Binaries of other targets may be of older sources; they go. */
function keepPrebuilds(names) {
  const folder = path.join(root, 'prebuilds')
  for (const entry of existsSync(folder) ? readdirSync(folder) : []) {
    if (!names.includes(entry)) rmSync(path.join(folder, entry), { recursive: true })
  }
}

function refuse(file, problems) {
  if (problems.length === 0) return
  const lines = problems.map((problem) => `${file} ${problem}`)
  throw new StepError('package', lines.join('\n'), 'see scripts/package for what is checked')
}
