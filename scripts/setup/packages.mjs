import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { root, runStep } from './log.mjs'

const cli = process.env.npm_execpath
/** npm's command line: that of the npm which runs this, where one does. */
export const npm = cli?.endsWith('npm-cli.js') ? [process.execPath, cli] : ['npm']

/** Runs `npm ci` unless node_modules holds exactly what package-lock.json names. */
export async function ensureNodeModules() {
  if (matchesLock()) return
  // Dev dependencies even where the environment says production: they are what builds. No install scripts:
  // none of the packages needs one.
  const options = ['--include=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=warn']
  await runStep('npm ci', npm[0], [...npm.slice(1), 'ci', ...options], { name: 'npm-ci' })
}

function matchesLock() {
  const wanted = packagesIn('package-lock.json')
  const installed = packagesIn('node_modules/.package-lock.json')
  return Object.entries(wanted).every(([location, entry]) => {
    if (location === '') return true
    const found = installed[location]
    if (found === undefined) return entry.optional === true
    return found.version === entry.version && found.integrity === entry.integrity
  })
}

function packagesIn(file) {
  const absolute = path.join(root, file)
  return existsSync(absolute) ? (JSON.parse(readFileSync(absolute, 'utf8')).packages ?? {}) : {}
}
