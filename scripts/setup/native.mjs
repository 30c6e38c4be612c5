import { existsSync, readFileSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { findOpenBlas } from '../native/openblas.mjs'
import { root, runStep } from './log.mjs'
import { hashOf, once } from './stamp.mjs'
import { versionOf } from './system.mjs'

const sources = ['native', 'binding.gyp', 'scripts/native']

export const nativeTests = ['build/Release/flrc_test', 'build/Release/flrc_test_sanitized']

/** Builds the addon, build/Release/flrc.node. */
export function ensureAddon() {
  return once('addon', hashOf(sources, toolchain()), ['build/Release/flrc.node'], () =>
    build('native core', { tests: false }),
  )
}

/** Builds the C++ unit tests, plain and sanitized. */
export function ensureNativeTests() {
  return once('native-tests', hashOf([...sources, 'test/native'], toolchain()), nativeTests, () =>
    build('native tests', { tests: true }),
  )
}

async function build(title, { tests }) {
  const nodeGyp = 'node_modules/node-gyp/bin/node-gyp.js'
  const run = (title, name, args) =>
    runStep(title, process.execPath, [nodeGyp, ...args], { name, env: headers() })
  const jobs = availableParallelism()
  const name = title.replaceAll(' ', '-')
  await run(`${title}: configure`, `${name}-configure`, ['configure', '--', `-Dflrc_tests=${tests}`])
  await run(`${title}: compile with ${jobs} jobs`, name, ['build', '-j', String(jobs)])
}

/** Node's own headers where they lie beside it; without them node-gyp downloads them. */
function headers() {
  const prefix = path.dirname(path.dirname(process.execPath))
  return existsSync(path.join(prefix, 'include/node/node_api.h')) ? { npm_config_nodedir: prefix } : {}
}

function toolchain() {
  const openBlas = findOpenBlas()
  const { size, mtimeMs } = openBlas ? statSync(openBlas.library) : { size: 0, mtimeMs: 0 }
  const addonApi = path.join(root, 'node_modules/node-addon-api/package.json')
  return [
    process.arch,
    versionOf(process.env.CXX ?? 'g++'),
    `${process.env.CXXFLAGS ?? ''} ${process.env.LDFLAGS ?? ''}`,
    `${openBlas?.library} ${size} ${mtimeMs}`,
    existsSync(addonApi) ? JSON.parse(readFileSync(addonApi, 'utf8')).version : '',
  ]
}
