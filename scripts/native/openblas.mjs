// Where Debian's package libopenblas-pthread-dev put its static library and headers, for binding.gyp:
// `node openblas.mjs library|include` prints the path. The serial build of OpenBLAS is no substitute: it is
// not safe to call from several threads.
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const triplets = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' }

/** `{ library, include }`, or undefined where the package is not installed. */
export function findOpenBlas() {
  const found = existsSync('/usr/lib') ? readdirSync('/usr/lib').map(filesOf) : []
  const complete = found.filter(
    ({ library, include }) => existsSync(library) && existsSync(`${include}/cblas.h`),
  )
  return complete.find(({ triplet }) => triplet === triplets[process.arch]) ?? complete[0]
}

function filesOf(triplet) {
  return {
    triplet,
    library: path.join('/usr/lib', triplet, 'openblas-pthread', 'libopenblas.a'),
    include: path.join('/usr/include', triplet, 'openblas-pthread'),
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const found = findOpenBlas()
  if (found === undefined) {
    console.error('OpenBLAS not found: install it with: apt-get install libopenblas-pthread-dev')
    process.exit(1)
  }
  console.log(process.argv[2] === 'include' ? found.include : found.library)
}
