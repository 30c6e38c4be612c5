import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { binaryProblems } from '../package/binary.mjs'
import { tarballProblems } from '../package/tarball.mjs'
import { root, runStep, StepError } from './log.mjs'
import { addonOf } from './native.mjs'
import { npm } from './packages.mjs'
import { hashOf, once } from './stamp.mjs'
import { host } from './targets.mjs'

const { name, version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))

export const tarball = `build/package/${name}-${version}.tgz`

/** Makes the binary that is shipped from a target's addon: stripped, and fit to run elsewhere. */
export function ensurePrebuild(target = host) {
  const addon = addonOf(target)
  const linux = target.name.startsWith('linux')
  // Named as prebuildify does with --napi --tag-libc, so that node-gyp-build finds it on glibc and not on musl.
  const prebuild = `prebuilds/${target.name}/flrc${linux ? '.glibc' : ''}.node`
  const inputs = hashOf([addon, 'scripts/package', 'scripts/setup/package.mjs'])
  return once(`prebuild-${target.name}`, inputs, [prebuild], async () => {
    mkdirSync(path.join(root, path.dirname(prebuild)), { recursive: true })
    // Nothing that fails the checks may lie where it would be packed.
    const candidate = path.join(root, 'build', `flrc-${target.name}.node`)
    copyFileSync(path.join(root, addon), candidate)
    const all = process.platform === 'darwin' ? '-x' : '--strip-all'
    if (process.platform !== 'win32')
      await runStep('strip', target.program('strip'), [all, candidate], { name: 'strip', quiet: true })
    if (linux) refuse(prebuild, binaryProblems(candidate))
    renameSync(candidate, path.join(root, prebuild))
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
