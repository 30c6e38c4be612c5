import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'

/** The machine as far as binaries care. */
export interface Host {
  platform: string
  arch: string
  node: string
  /** C library of Linux: glibc and its version, or undefined where it is another one (musl). */
  glibc: string | undefined
}

/** Of the binaries that the package comes with; those of releases are built on it or on an older one. */
const oldestGlibc = '2.34'

/** Whose binaries are too large for the package, or known too little, and attached to its releases. */
const attached = ['win32-x64', 'darwin-arm64']

export function thisHost(): Host {
  const { platform, arch, versions, report } = process
  const header =
    platform === 'linux' ? (report.getReport() as { header?: { glibcVersionRuntime?: string } }) : {}
  return { platform, arch, node: versions.node, glibc: header.header?.glibcVersionRuntime }
}

/** Why there is no addon for this machine, what was tried, and what to do. `elsewhere` is what FLRC_PREBUILD names. */
export function explainMissing(folder: string, host: Host, elsewhere?: string): string {
  if (elsewhere) {
    const place = path.join(path.resolve(elsewhere), 'prebuilds', `${host.platform}-${host.arch}`)
    return `no native addon for ${describe(host)} in ${place}; unset FLRC_PREBUILD, or set it to the folder that holds prebuilds`
  }
  const tried = ['build/Release', 'build/Debug', `prebuilds/${host.platform}-${host.arch}`]
  const there = prebuildsIn(folder)
  return [
    `no native addon for ${describe(host)}`,
    `looked for *.node in ${tried.map((name) => path.join(folder, name)).join(', ')}`,
    `binaries in the package: ${there.join(', ') || 'none'}`,
    remedy(folder, host, there),
  ].join('; ')
}

/** Why an addon that is there does not load (`reason`), and what to do. */
export function explainUnloadable(folder: string, host: Host, reason: string): string {
  const [cause] = reason.split('\n')
  const old = /GLIBC_[\d.]+' not found/.test(reason)
  return `the native addon does not load on ${describe(host)} (${cause}); ${
    old
      ? `binaries need glibc ${oldestGlibc} or newer (Debian 12, Ubuntu 22.04, RHEL 9): use a newer system, or ${fromSource(folder)}`
      : remedy(folder, host, prebuildsIn(folder))
  }`
}

function describe({ platform, arch, node, glibc }: Host): string {
  const library =
    platform === 'linux' ? (glibc ? ` with glibc ${glibc}` : ' with a C library other than glibc (musl)') : ''
  return `${platform}-${arch}${library}, Node ${node}`
}

function remedy(folder: string, { platform, arch, glibc }: Host, there: readonly string[]): string {
  if (platform === 'linux' && glibc === undefined) {
    return 'musl (Alpine) is not supported: use a system with glibc, such as the image node:22-bookworm-slim'
  }
  const name = `${platform}-${arch}`
  if (there.includes(name)) return `install flrc again, or ${fromSource(folder)}`
  if (attached.includes(name)) {
    return `unpack the binary for ${name} that is attached to this version's release, and set FLRC_PREBUILD to the folder that then holds prebuilds`
  }
  return `${there.length > 0 ? 'use one of these platforms, or ' : ''}${fromSource(folder)}`
}

function fromSource(folder: string): string {
  return existsSync(path.join(folder, 'binding.gyp'))
    ? `run \`npm run build\` in ${folder}`
    : 'build it from a clone of the repository (npm run build; on Linux), and install that folder'
}

function prebuildsIn(folder: string): string[] {
  const prebuilds = path.join(folder, 'prebuilds')
  return existsSync(prebuilds) ? readdirSync(prebuilds).sort() : []
}
