import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { findOpenBlas, sharedLibraries } from '../native/openblas.mjs'
import { root, runStep } from './log.mjs'
import { hashOf, once } from './stamp.mjs'
import { versionOf } from './system.mjs'
import { host } from './targets.mjs'

const sources = ['native', 'binding.gyp', 'scripts/native']
/** What the build of another target reads beside `sources`. */
const linked = [...sources, 'test', 'package.json', 'node_modules']

const output = (target, name) => path.posix.join(target.folder, 'build/Release', name)

/** Opens the plugin of cuda-tests.mjs. */
export const cudaSessionTest = 'build/Release/flrc_cuda_session_test'

export const addonOf = (target) => output(target, 'flrc.node')
/** The sanitized ones run on the machine that builds only, and on Linux. */
export const nativeTestsOf = (target) =>
  target === host && target.platform === 'linux'
    ? [output(target, 'flrc_test'), output(target, 'flrc_test_sanitized')]
    : [output(target, `flrc_test${target.platform === 'win32' ? '.exe' : ''}`)]

/** Builds the addon: build/Release/flrc.node for this machine. */
export function ensureAddon(target = host) {
  return once(`addon${suffix(target)}`, hashOf(sources, toolchain(target)), [addonOf(target)], () =>
    build('native core', target, { outputs: ['flrc'] }),
  )
}

/** Builds the C++ unit tests, for this machine plain and sanitized. */
export function ensureNativeTests(target = host) {
  const tests = nativeTestsOf(target)
  const outputs = target === host && target.platform === 'linux' ? [...tests, cudaSessionTest] : tests
  const inputs = hashOf([...sources, 'test/native', 'test/cuda'], toolchain(target))
  return once(`native-tests${suffix(target)}`, inputs, outputs, () =>
    build('native tests', target, {
      extra: 'tests',
      outputs: outputs.map((file) => path.basename(file, '.exe')),
    }),
  )
}

/** Builds the program that times kernels, for this machine. */
export function ensureNativeBench() {
  const inputs = hashOf([...sources, 'bench/native'], toolchain(host))
  return once('native-bench', inputs, [output(host, 'flrc_bench')], () =>
    build('native benchmark', host, { extra: 'bench', outputs: ['flrc_bench'] }),
  )
}

const suffix = (target) => (target === host ? '' : `-${target.name}`)

/** `extra`: what binding.gyp describes beside the addon for these outputs, if anything. */
async function build(title, target, { extra, outputs }) {
  if (target !== host) linkSources(target)
  const nodeGyp = ['node_modules/node-gyp/bin/node-gyp.js', '-C', target.folder]
  const name = `${title.replaceAll(' ', '-')}${suffix(target)}`
  const heading = target === host ? title : `${title} for ${target.name}`
  const run = (step, log, args) =>
    runStep(`${heading}: ${step}`, process.execPath, [...nodeGyp, ...args], {
      name: log,
      env: { ...headers(), ...tools(target) },
    })
  renewKernels()
  const jobs = availableParallelism()
  await run('configure', `${name}-configure`, [
    'configure',
    `--arch=${target.arch}`,
    '--',
    `-Dflrc_platform=${target.platform}`,
    ...['tests', 'bench'].map((name) => `-Dflrc_${name}=${name === extra}`),
  ])
  await run(`compile with ${jobs} jobs`, name, ['build', '-j', String(jobs), ...outputs])
  for (const library of sharedLibraries(target.name)) {
    copyFileSync(library, path.join(root, output(target, path.basename(library))))
  }
}

/**
 * Highway includes the kernels out of a header of the system, and what such a header includes is not among the
 * dependencies that the compiler lists: make would not notice that kernels have changed.
 */
function renewKernels() {
  const folder = path.join(root, 'native/cpu')
  const source = path.join(folder, 'kernels.cc')
  const included = readdirSync(folder).filter((name) => name.endsWith('-inl.h'))
  const changed = Math.max(...included.map((name) => statSync(path.join(folder, name)).mtimeMs))
  if (changed > statSync(source).mtimeMs) utimesSync(source, changed / 1000, changed / 1000)
}

/** node-gyp builds in the folder of binding.gyp: another target gets a folder with links to everything. */
function linkSources({ folder }) {
  for (const name of linked) {
    const link = path.join(root, folder, name)
    mkdirSync(path.dirname(link), { recursive: true })
    rmSync(link, { force: true })
    symlinkSync(path.join(root, name), link)
  }
}

function tools(target) {
  if (target === host) return {}
  return { CC: target.program('gcc'), CXX: target.program('g++'), AR: target.program('ar') }
}

/** Node's own headers where they lie beside it; without them node-gyp downloads them. */
function headers() {
  const prefix = path.dirname(path.dirname(process.execPath))
  return existsSync(path.join(prefix, 'include/node/node_api.h')) ? { npm_config_nodedir: prefix } : {}
}

function toolchain(target) {
  const openBlas = findOpenBlas(target.name)
  const { size, mtimeMs } = openBlas ? statSync(openBlas.library) : { size: 0, mtimeMs: 0 }
  const addonApi = path.join(root, 'node_modules/node-addon-api/package.json')
  return [
    target.name,
    versionOf(tools(target).CXX ?? process.env.CXX ?? 'g++'),
    `${process.env.CXXFLAGS ?? ''} ${process.env.LDFLAGS ?? ''}`,
    `${openBlas?.library} ${size} ${mtimeMs}`,
    existsSync(addonApi) ? JSON.parse(readFileSync(addonApi, 'utf8')).version : '',
  ]
}
