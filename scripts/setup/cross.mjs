// What building for another platform takes, and running what was built: Debian's cross compilers, OpenBLAS of that
// platform, qemu-user and Wine.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { comesAsWheel, unpacked } from '../native/openblas.mjs'
import { root, runStep, StepError } from './log.mjs'
import { ensureOpenBlasWheel } from './openblas-wheel.mjs'
import { once } from './stamp.mjs'
import { ensurePresent, obstacleToPresence, onPath } from './system.mjs'

const openBlasPackage = 'libopenblas-pthread-dev'

export async function ensureCross(target) {
  const { name } = target
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new StepError(name, `${name} is cross-built on linux-x64 only`)
  }
  await ensurePresent(packagesFor(target))
  await (comesAsWheel(name) ? ensureOpenBlasWheel(name) : ensureOpenBlas(target))
}

/** Why a target cannot be built and run here for want of system packages; undefined where it can. */
export function obstacleToCross(target) {
  return obstacleToPresence(packagesFor(target))
}

function packagesFor({ packages }) {
  return Object.entries(packages).map(([name, program]) => ({ name, present: () => onPath(program) }))
}

/** A Windows of build's own, in the version that Node asks for. */
export function ensureWine({ run }) {
  const { command, env } = run('', [])
  return once('wine', 'win10', ['build/wine/system.reg'], async () => {
    await runStep('Wine', command, ['wineboot', '--init'], { name: 'wine', env })
    await runStep('Wine: version', command, ['winecfg', '/v', 'win10'], { name: 'wine-version', env })
  })
}

/**
 * Unpacks Debian's package of another architecture into build. The package lists are a copy of their own, so that
 * the machine need not be told of that architecture, nor anybody be root.
 */
function ensureOpenBlas({ name, arch }) {
  const folder = path.join(unpacked, name)
  return once(`openblas-${name}`, openBlasPackage, [path.relative(root, folder)], async () => {
    const apt = path.join(folder, 'apt')
    rmSync(folder, { recursive: true, force: true })
    for (const part of ['lists/partial', 'cache/archives/partial'])
      mkdirSync(path.join(apt, part), { recursive: true })
    writeFileSync(path.join(apt, 'status'), '')
    const options = [
      `APT::Architecture=${arch}`,
      `APT::Architectures=${arch}`,
      `Dir::State::Lists=${apt}/lists`,
      `Dir::State::status=${apt}/status`,
      `Dir::Cache=${apt}/cache`,
      'APT::Sandbox::User=root',
      'Acquire::Retries=3',
    ].flatMap((option) => ['-o', option])
    const run = (title, command, ...args) => runStep(title, command, args, { name: `openblas-${name}` })
    await run(`package lists of ${arch}`, 'apt-get', ...options, 'update')
    // It downloads into the working directory.
    await run(`OpenBLAS for ${arch}`, 'env', '-C', apt, 'apt-get', ...options, 'download', openBlasPackage)
    const file = readdirSync(apt).find((entry) => entry.endsWith('.deb'))
    if (file === undefined) throw new StepError('OpenBLAS', `${openBlasPackage} of ${arch} was not downloaded`)
    await run('unpack OpenBLAS', 'dpkg-deb', '-x', path.join(apt, file), folder)
    rmSync(apt, { recursive: true })
  })
}
