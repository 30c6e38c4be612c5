// linux-arm64 on linux-x64, under qemu-user: the C++ tests, and the installed tarball beside what it does on x64.
// `npm run check:arm64` makes both first; `-- PATTERN` runs the checks whose names contain it, after the installation.
import { linuxArm64 } from './setup/targets.mjs'
import { checkTarget } from './test/emulated.mjs'

await checkTarget(linuxArm64, {
  pattern: process.argv[2],
  // One after the other: every chip's, a server's, and with SVE.
  kernelSets: ['ARMV8', 'NEOVERSEN1', 'NEOVERSEV1'],
})
