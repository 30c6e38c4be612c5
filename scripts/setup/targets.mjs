// The platforms that the native core is built for here. `name` is that of the folder in prebuilds; `folder` holds
// the build folder; `program` names the compilers and binutils; `compiler` is the Debian package they come with.

/** The machine that builds. */
export const host = {
  name: `${process.platform}-${process.arch}`,
  arch: process.arch,
  folder: '.',
  program: (name) => name,
}

/** Built by Debian's cross compiler on another Linux (setup/cross.mjs). */
export const linuxArm64 = {
  name: 'linux-arm64',
  arch: 'arm64',
  folder: 'build/linux-arm64',
  compiler: 'g++-aarch64-linux-gnu',
  program: (name) => `aarch64-linux-gnu-${name}`,
}
