// Another Node, as npm ships it: `node other-node.mjs MAJOR` installs it into build and prints its path.
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { root, runStep, StepError } from './log.mjs'
import { npm } from './packages.mjs'
import { once } from './stamp.mjs'
import { host } from './targets.mjs'

/** Path of the executable, for this machine or another target. */
export async function ensureNode(major, target = host) {
  const windows = target.platform === 'win32'
  const name = `node-${windows ? 'win' : target.platform}-${target.arch}`
  const folder = path.join('build', target === host ? `node-${major}` : `node-${major}-${target.name}`)
  const executable = path.join(folder, 'node_modules', name, windows ? 'bin/node.exe' : 'bin/node')
  const log = path.basename(folder)
  await once(log, name, [executable], async () => {
    const options = ['--no-save', '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund']
    const args = [
      ...npm.slice(1),
      'install',
      '--prefix',
      path.join(root, folder),
      ...options,
      // npm installs no other machine's program without it.
      ...(target === host ? [] : ['--force']),
      `${name}@${major}`,
    ]
    await runStep(`Node ${major} for ${target.name}`, npm[0], args, { name: log })
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
