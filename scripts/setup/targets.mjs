// The platforms that the native core is built for here. `name` is that of the folder in prebuilds; `folder` holds
// the build folder; `program` names the compilers and binutils. Targets other than this machine also have `packages`,
// the Debian packages that building and running takes, each with a program of it, and `run`, which gives command,
// arguments and environment that run one of the target's programs here.
import path from 'node:path'
import { root } from './log.mjs'

/** The machine that builds. */
export const host = {
  name: `${process.platform}-${process.arch}`,
  platform: process.platform,
  arch: process.arch,
  folder: '.',
  program: (name) => name,
}

/** Built by Debian's cross compiler on another Linux. */
export const linuxArm64 = {
  name: 'linux-arm64',
  platform: 'linux',
  arch: 'arm64',
  folder: 'build/linux-arm64',
  program: (name) => `aarch64-linux-gnu-${name}`,
  packages: { 'g++-aarch64-linux-gnu': 'aarch64-linux-gnu-g++', 'qemu-user': 'qemu-aarch64' },
  run: (program, args) => ({
    command: 'qemu-aarch64',
    args: ['-L', '/usr/aarch64-linux-gnu', program, ...args],
    env: {},
  }),
}

/** Built by MinGW-w64, in its variant with POSIX threads: the C++ library has no threads in the other. */
export const win32X64 = {
  name: 'win32-x64',
  platform: 'win32',
  arch: 'x64',
  folder: 'build/win32-x64',
  program: (name) => `x86_64-w64-mingw32-${name}${/^g(cc|\+\+)$/.test(name) ? '-posix' : ''}`,
  packages: { 'g++-mingw-w64-x86-64-posix': 'x86_64-w64-mingw32-g++-posix', wine: 'wine', wine64: 'wine' },
  run: (program, args) => ({
    command: 'wine',
    args: [program, ...args],
    env: { WINEPREFIX: path.join(root, 'build/wine'), WINEDEBUG: '-all' },
  }),
}
