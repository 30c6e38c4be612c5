// Where Debian's package libopenblas-pthread-dev put its static library and headers, for binding.gyp:
// `node openblas.mjs library|include|ldflags [ARCH]` prints the path, or what to link with. The serial build of
// OpenBLAS is no substitute: it is not safe to call from several threads.
import { existsSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const triplets = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }

/** Where setup/cross.mjs unpacks the package of an architecture that is not this machine's. */
export const unpacked = fileURLToPath(new URL('../../build/openblas', import.meta.url))

/**
 * Kernels that are left out, and those that their processors get instead. OpenBLAS has a set for every x86-64
 * family since 2003; nothing older than Nehalem runs ours (they need SSE4.2), and Bulldozer's line runs what Sandy
 * Bridge does (OpenBLAS looks for AVX first). It halves the binary.
 */
const replaced = {
  x64: {
    PRESCOTT: [
      'ATOM',
      'BARCELONA',
      'BOBCAT',
      'CORE2',
      'DUNNINGTON',
      'NANO',
      'OPTERON',
      'OPTERON_SSE3',
      'PENRYN',
    ],
    SANDYBRIDGE: ['BULLDOZER', 'EXCAVATOR', 'PILEDRIVER', 'STEAMROLLER'],
  },
}

/** `{ library, include }` for an architecture, or undefined where the package is not installed. */
export function findOpenBlas(arch = process.arch) {
  const triplet = triplets[arch] ?? arch
  return ['/', unpacked]
    .map((folder) => ({
      library: path.join(folder, 'usr/lib', triplet, 'openblas-pthread/libopenblas.a'),
      include: path.join(folder, 'usr/include', triplet, 'openblas-pthread'),
    }))
    .find(({ library, include }) => existsSync(library) && existsSync(`${include}/cblas.h`))
}

function ldflags(arch) {
  return Object.entries(replaced[arch] ?? {}).flatMap(([kept, names]) =>
    names.map((name) => `-Wl,--defsym=gotoblas_${name}=gotoblas_${kept}`),
  )
}

// The build of another target comes here through a link.
if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [what, arch = process.arch] = process.argv.slice(2)
  const found = findOpenBlas(arch)
  if (found === undefined) {
    console.error(`OpenBLAS for ${arch} not found: install it with: apt-get install libopenblas-pthread-dev`)
    process.exit(1)
  }
  console.log(what === 'ldflags' ? ldflags(arch).join('\n') : found[what])
}
