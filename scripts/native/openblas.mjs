// Where OpenBLAS and its headers are, for binding.gyp: `node openblas.mjs library|include|ldflags [PLATFORM-ARCH]` prints
// the path, or what to link with. For Linux it is the static library of Debian's package libopenblas-pthread-dev (the
// serial build is no substitute: it is not safe to call from several threads), for Windows and macOS the shared library
// that SciPy's developers build for theirs, which then lies beside the addon.
import { existsSync, readdirSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const triplets = { 'linux-x64': 'x86_64-linux-gnu', 'linux-arm64': 'aarch64-linux-gnu' }
const wheels = { 'win32-x64': 'libscipy_openblas.dll', 'darwin-arm64': 'libscipy_openblas.dylib' }

const thisPlatform = `${process.platform}-${process.arch}`

/** Where setup unpacks what this machine's system does not have, by platform. */
export const unpacked = fileURLToPath(new URL('../../build/openblas', import.meta.url))

/**
 * Kernels that are left out, and those that their processors get instead. OpenBLAS has a set for every x86-64
 * family since 2003; nothing older than Nehalem runs ours (they need SSE4.2), and Bulldozer's line runs what Sandy
 * Bridge does (OpenBLAS looks for AVX first). It halves the binary.
 */
const replaced = {
  'linux-x64': {
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

/** `{ library, include }` for a platform, or undefined where it is not installed. */
export function findOpenBlas(platform = thisPlatform) {
  return placesOf(platform).find(
    ({ library, include }) => existsSync(library) && existsSync(`${include}/cblas.h`),
  )
}

function placesOf(platform) {
  const own = path.join(unpacked, platform)
  const shared = wheels[platform]
  if (shared !== undefined) {
    return [{ library: path.join(own, 'scipy_openblas32/lib', shared), include: path.join(own, 'include') }]
  }
  const triplet = triplets[platform] ?? platform
  return ['/', own].map((folder) => ({
    library: path.join(folder, 'usr/lib', triplet, 'openblas-pthread/libopenblas.a'),
    include: path.join(folder, 'usr/include', triplet, 'openblas-pthread'),
  }))
}

/** Files that must lie beside the addon when it runs. */
export function sharedLibraries(platform) {
  return comesAsWheel(platform) ? placesOf(platform).map(({ library }) => library) : []
}

/** What the developers of a wheel say of the licences in it. */
export function wheelLicense(platform) {
  const folder = path.join(unpacked, platform)
  const information = readdirSync(folder).find((name) => name.endsWith('.dist-info'))
  return path.join(folder, information, 'licenses/LICENSE.txt')
}

/** Whether OpenBLAS for a platform comes as a wheel. */
export function comesAsWheel(platform) {
  return wheels[platform] !== undefined
}

function ldflags(platform) {
  return Object.entries(replaced[platform] ?? {}).flatMap(([kept, names]) =>
    names.map((name) => `-Wl,--defsym=gotoblas_${name}=gotoblas_${kept}`),
  )
}

// The build of another target comes here through a link.
if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [what, platform = thisPlatform] = process.argv.slice(2)
  const found = findOpenBlas(platform)
  if (found === undefined) {
    const remedy = comesAsWheel(platform) ? 'npm run build' : 'apt-get install libopenblas-pthread-dev'
    console.error(`OpenBLAS for ${platform} not found: install it with: ${remedy}`)
    process.exit(1)
  }
  console.log(what === 'ldflags' ? ldflags(platform).join('\n') : found[what])
}
