// What a GPU machine without Node needs to run flrc (bench/cuda-demo.mjs), in one folder small enough to be carried
// there: this Node, the package with what it depends on, and the plugin.
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { root, runStep, StepError } from './log.mjs'

const folder = 'build/cuda-demo'
const archive = `${folder}/demo.tar.xz`
const largest = 50_000_000
const files = [
  'package.json',
  'dist',
  'prebuilds/linux-x64',
  'models/tiny',
  'bench/cuda-demo.mjs',
  'build/cuda/flrc_cuda.so',
]

const run = `#!/bin/sh
# Runs bench/cuda-demo.mjs on the GPU of this machine: unpacks what lies beside this, with the Node in it. Needs tar with
# xz, or Python, and glibc and libstdc++ no older than where it was packed. FLRC_BACKEND_PATH names another plugin.
set -eu
here=$(dirname "$0")
to=$(mktemp -d)
trap 'rm -rf "$to"' EXIT
tar -xJf "$here/demo.tar.xz" -C "$to" 2>/dev/null || python3 -m tarfile -e "$here/demo.tar.xz" "$to"
"$to/node" "$to/bench/cuda-demo.mjs" "$@"
`

/** Gathers and packs it. */
export async function packCudaDemo() {
  const staged = path.join(root, 'build/cuda-demo-files')
  for (const old of [staged, path.join(root, folder)]) rmSync(old, { recursive: true, force: true })
  for (const file of [...files, ...dependencies()]) {
    cpSync(path.join(root, file), path.join(staged, file), { recursive: true, dereference: true })
  }
  const node = path.join(staged, 'node')
  copyFileSync(process.execPath, node)
  chmodSync(node, 0o755)
  await runStep('strip', 'strip', ['--strip-all', node], { name: 'strip', quiet: true })
  mkdirSync(path.join(root, folder))
  const args = ['--create', '--xz', '--file', path.join(root, archive), '--directory', staged, '.']
  await runStep('CUDA demo', 'tar', args, { name: 'cuda-demo' })
  rmSync(staged, { recursive: true })
  const { size } = statSync(path.join(root, archive))
  if (size > largest) throw new StepError('CUDA demo', `${archive} has ${size} bytes, more than ${largest}`)
  writeFileSync(path.join(root, folder, 'run.sh'), run, { mode: 0o755 })
}

/** Folders of the packages that the library needs at run time. */
function dependencies() {
  const { packages } = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8'))
  return Object.entries(packages)
    .filter(([name, entry]) => name !== '' && !entry.dev && !entry.devOptional && !entry.optional)
    .map(([name]) => name)
}
