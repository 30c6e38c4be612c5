// Another Node, as npm ships it: `node other-node.mjs MAJOR` installs it into build and prints its path.
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root, runStep, StepError } from './log.mjs'
import { npm } from './packages.mjs'
import { once } from './stamp.mjs'

/** Path of the executable, for this machine's processor or another. */
export async function ensureNode(major, arch = process.arch) {
  const name = `node-${process.platform}-${arch}`
  const folder = path.join('build', arch === process.arch ? `node-${major}` : `node-${major}-${arch}`)
  const executable = path.join(folder, 'node_modules', name, 'bin/node')
  const log = path.basename(folder)
  await once(log, name, [executable], async () => {
    const options = ['--no-save', '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund']
    const args = [
      ...npm.slice(1),
      'install',
      '--prefix',
      path.join(root, folder),
      ...options,
      // npm installs no other processor's program without it.
      ...(arch === process.arch ? [] : ['--force']),
      `${name}@${major}`,
    ]
    await runStep(`Node ${major} for ${arch}`, npm[0], args, { name: log })
  })
  return path.join(root, executable)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    console.log(await ensureNode(process.argv[2]))
  } catch (error) {
    if (!(error instanceof StepError)) throw error
    console.error(error.explain())
    process.exitCode = 1
  }
}
