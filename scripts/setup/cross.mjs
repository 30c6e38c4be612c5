// What building for another processor takes, and running what was built: Debian's cross compiler, OpenBLAS of that
// architecture, and qemu-user.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { unpacked } from '../native/openblas.mjs'
import { root, runStep, StepError } from './log.mjs'
import { once } from './stamp.mjs'
import { ensurePresent, onPath } from './system.mjs'

const openBlasPackage = 'libopenblas-pthread-dev'

export async function ensureCross({ name, arch, compiler, program }) {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new StepError(name, `${name} is cross-built on linux-x64 only`, `on ${name}: npm run build:prebuilds`)
  }
  await ensurePresent([
    { name: compiler, present: () => onPath(program('g++')) },
    { name: 'qemu-user', present: () => onPath('qemu-aarch64') },
  ])
  await ensureOpenBlas(arch)
}

/**
 * Unpacks Debian's package of another architecture into build. The package lists are a copy of their own, so that
 * the machine need not be told of that architecture, nor anybody be root.
 */
function ensureOpenBlas(arch) {
  const folder = path.relative(root, unpacked)
  return once(`openblas-${arch}`, openBlasPackage, [folder], async () => {
    const apt = path.join(unpacked, 'apt')
    rmSync(unpacked, { recursive: true, force: true })
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
    const run = (title, command, ...args) => runStep(title, command, args, { name: `openblas-${arch}` })
    await run(`package lists of ${arch}`, 'apt-get', ...options, 'update')
    // It downloads into the working directory.
    await run(`OpenBLAS for ${arch}`, 'env', '-C', apt, 'apt-get', ...options, 'download', openBlasPackage)
    const file = readdirSync(apt).find((entry) => entry.endsWith('.deb'))
    if (file === undefined) throw new StepError('OpenBLAS', `${openBlasPackage} of ${arch} was not downloaded`)
    await run('unpack OpenBLAS', 'dpkg-deb', '-x', path.join(apt, file), unpacked)
    rmSync(apt, { recursive: true })
  })
}

/** Command and arguments that run a target's program here. */
export function emulated(program, args) {
  return ['qemu-aarch64', ['-L', '/usr/aarch64-linux-gnu', program, ...args]]
}
