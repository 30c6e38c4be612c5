// OpenBLAS where no system package has it: the wheel for PLATFORM-ARCH, unpacked into build/openblas/PLATFORM-ARCH, and
// beside it the folder `include` that the compiler is shown.
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { unpacked } from '../native/openblas.mjs'
import { root, runStep, StepError } from './log.mjs'
import { hashOf, once } from './stamp.mjs'
import { ensurePresent, pip } from './system.mjs'

const requirements = 'scripts/setup/openblas-requirements.txt'
const lapack = 'native/linalg/blas.h'
const wheelPlatforms = { 'win32-x64': 'win_amd64', 'darwin-arm64': 'macosx_11_0_arm64' }
/** Debian's and Homebrew's. */
const highway = ['/usr/include/hwy', '/opt/homebrew/include/hwy']

export function ensureOpenBlasWheel(platform) {
  const folder = path.join(unpacked, platform)
  const inputs = hashOf([requirements, lapack, 'scripts/setup/openblas-wheel.mjs'])
  const header = path.relative(root, path.join(folder, 'include/cblas.h'))
  return once(`openblas-${platform}`, inputs, [header], async () => {
    await ensurePresent([pip])
    rmSync(folder, { recursive: true, force: true })
    const options = ['--no-deps', '--no-compile', '--only-binary', ':all:', '--require-hashes']
    const quiet = ['--disable-pip-version-check', '--root-user-action', 'ignore']
    const place = ['--platform', wheelPlatforms[platform], '--target', folder, '-r', requirements]
    await runStep(
      `OpenBLAS for ${platform}`,
      'python3',
      ['-m', 'pip', 'install', ...quiet, ...options, ...place],
      { name: `openblas-${platform}` },
    )
    const include = path.join(folder, 'include')
    mkdirSync(include)
    writeFileSync(path.join(include, 'cblas.h'), renamingHeader(folder))
    // Compilers for other systems do not look where this one's headers are.
    const found = highway.find((place) => existsSync(place))
    if (found === undefined) throw new StepError('Highway', `not found in ${highway.join(' or ')}`)
    symlinkSync(found, path.join(include, 'hwy'))
  })
}

/** The library's own header, with the names that its developers have put a prefix to. */
function renamingHeader(folder) {
  const header = 'scipy_openblas32/include/cblas.h'
  const declared = readFileSync(path.join(folder, header), 'utf8').matchAll(
    /\bscipy_((?:cblas|openblas)_\w+) *\(/g,
  )
  const called = readFileSync(path.join(root, lapack), 'utf8').matchAll(/\b(d\w+_)\(/g)
  const names = new Set([...declared, ...called].map(([, name]) => name))
  return [...[...names].map((name) => `#define ${name} scipy_${name}`), `#include "../${header}"`, ''].join(
    '\n',
  )
}
