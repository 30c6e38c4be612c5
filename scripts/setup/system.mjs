import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { findOpenBlas } from '../native/openblas.mjs'
import { runStep, StepError, say } from './log.mjs'

// Looked for by the files themselves, so that a compiler or Python from elsewhere does as well as Debian's.
const everywhere = ['make', 'python3'].map((name) => ({ name, present: () => onPath(name) }))
const needed = {
  linux: [
    { name: 'g++', present: () => process.env.CXX !== undefined || onPath('g++') },
    ...everywhere,
    { name: 'libopenblas-pthread-dev', present: () => findOpenBlas() !== undefined },
    { name: 'libhwy-dev', present: () => existsSync('/usr/include/hwy/highway.h') },
  ],
  darwin: [
    { name: 'c++', present: () => onPath('c++') },
    ...everywhere,
    { name: 'highway', present: () => existsSync('/opt/homebrew/include/hwy/highway.h') },
  ],
}

/** For the CUDA toolchain, which comes as Python packages. */
export const pip = {
  name: 'python3-pip',
  present: () => spawnSync('python3', ['-m', 'pip', '--version']).status === 0,
}

// Other versions lay the same code out differently, so only this one can check it.
export const clangFormat = 'clang-format-14'

/**
 * Installs the Debian packages the build needs, when this is CI, root, or asked for with FLRC_SETUP=1;
 * otherwise says the command and stops. CI also gets clang-format, which the tests can do without. `more` are needed
 * besides.
 */
export async function ensureSystemPackages(more = []) {
  const packages = needed[process.platform]
  if (packages === undefined) {
    throw new StepError(
      'system packages',
      `the native core builds on Linux and macOS only, not on ${process.platform}`,
      'for Windows it is built on Linux: npm run build:win32',
    )
  }
  await ensurePresent([...packages, ...more])
  if (process.env.CI === 'true' && !onPath(clangFormat) && !obstacleTo([clangFormat])) {
    await install([clangFormat]).catch(() =>
      say(`${clangFormat} could not be installed; C++ format goes unchecked`),
    )
  }
}

/** The same for `{ name, present }` of other packages. */
export async function ensurePresent(packages) {
  const missing = absent(packages)
  if (missing.length === 0) return
  const obstacle = obstacleTo(missing)
  if (obstacle) throw new StepError('system packages', `missing: ${missing.join(', ')}`, obstacle)
  await install(missing)
  const still = absent(packages)
  if (still.length > 0) throw new StepError('system packages', `installed, yet not found: ${still.join(', ')}`)
}

/** Why `ensurePresent` would fail; undefined where the packages are present or can be installed. */
export function obstacleToPresence(packages) {
  const missing = absent(packages)
  const obstacle = missing.length > 0 ? obstacleTo(missing) : undefined
  return obstacle && `missing: ${missing.join(', ')}; ${obstacle}`
}

function absent(packages) {
  return packages.filter((item) => !item.present()).map((item) => item.name)
}

/** Why this script may or can not install packages, with what to do instead; undefined where it can. */
function obstacleTo(packages) {
  if (process.platform === 'darwin') {
    return `install them with: xcode-select --install, and brew install ${packages.join(' ')}`
  }
  if (!onPath('apt-get')) {
    return 'there is no apt-get here, and these are names of Debian 12; build in a Debian or Ubuntu container'
  }
  if (isRoot()) return undefined
  const command = `apt-get install -y --no-install-recommends ${packages.join(' ')}`
  if (process.env.CI !== 'true' && process.env.FLRC_SETUP !== '1') {
    return `install them with:  sudo apt-get update && sudo ${command}\nor set FLRC_SETUP=1 and run this again: then it does so itself`
  }
  return onPath('sudo') ? undefined : `there is no sudo here; as root, run:  apt-get update && ${command}`
}

function isRoot() {
  return process.getuid() === 0
}

async function install(packages) {
  const apt = (...args) => {
    const options = ['-y', '-o', 'Acquire::Retries=3', '-o', 'DPkg::Lock::Timeout=300']
    const [command, ...rest] = [
      ...privilege(),
      'env',
      'DEBIAN_FRONTEND=noninteractive',
      'apt-get',
      ...options,
      ...args,
    ]
    return runStep(`apt-get ${args.join(' ')}`, command, rest, { name: `apt-${args[0]}` })
  }
  const installAll = () => apt('install', '--no-install-recommends', ...packages)
  if (!havePackageLists()) await apt('update')
  try {
    await installAll()
  } catch {
    // Old package lists name files that the archive no longer has.
    say('apt-get install failed; trying once more with fresh package lists')
    await apt('update')
    await installAll()
  }
}

/** Without a terminal nobody can type a password: then sudo must do without one or fail. */
function privilege() {
  if (isRoot()) return []
  return process.stderr.isTTY ? ['sudo'] : ['sudo', '-n']
}

function havePackageLists() {
  const folder = '/var/lib/apt/lists'
  return existsSync(folder) && readdirSync(folder).some((name) => /_Packages(\.\w+)?$/.test(name))
}

export function onPath(program) {
  const folders = (process.env.PATH ?? '').split(path.delimiter).filter(Boolean)
  return folders.some((folder) => existsSync(path.join(folder, program)))
}

/** The first line a program says of its version; empty where it does not run. */
export function versionOf(program) {
  const { stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' })
  return (stdout ?? '').split('\n')[0]
}
