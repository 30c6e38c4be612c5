// The CUDA plugin's npm package, gathered in build/cuda/package and packed into build/package-cuda.
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pluginNotices } from '../package/notices.mjs'
import { cudaLicense, ensureFatCudaPlugin, fatPlugin } from './cuda.mjs'
import { root, runStep, StepError } from './log.mjs'
import { npm } from './packages.mjs'
import { hashOf, once } from './stamp.mjs'

const manifest = 'cuda/package.json'
const { name, version } = JSON.parse(readFileSync(path.join(root, manifest), 'utf8'))
const tarball = `build/package-cuda/${name.replace('@', '').replace('/', '-')}-${version}.tgz`

/** Packs the plugin that is built for all chips. Its version is flrc's: the two belong together. */
export async function ensureCudaTarball() {
  await ensureFatCudaPlugin()
  const own = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).version
  if (version !== own) throw new StepError('CUDA package', `${manifest} has version ${version}, flrc ${own}`)
  const inputs = [manifest, 'cuda/README.md', 'LICENSE', fatPlugin, 'scripts/package', 'scripts/setup']
  await once('cuda-tarball', hashOf(inputs), [tarball], async () => {
    const folder = path.join(root, 'build/cuda/package')
    const target = path.join(root, path.dirname(tarball))
    for (const old of [folder, target]) rmSync(old, { recursive: true, force: true })
    const prebuilds = path.join(folder, 'prebuilds/linux-x64')
    for (const fresh of [prebuilds, target]) mkdirSync(fresh, { recursive: true })
    copyFileSync(path.join(root, manifest), path.join(folder, 'package.json'))
    copyFileSync(path.join(root, 'cuda/README.md'), path.join(folder, 'README.md'))
    copyFileSync(path.join(root, 'LICENSE'), path.join(folder, 'LICENSE'))
    copyFileSync(path.join(root, fatPlugin), path.join(prebuilds, 'flrc_cuda.so'))
    writeFileSync(path.join(folder, 'THIRD-PARTY-NOTICES.md'), pluginNotices(path.join(root, cudaLicense)))
    const args = [...npm.slice(1), 'pack', folder, '--ignore-scripts', '--pack-destination', target]
    await runStep('npm pack of the CUDA package', npm[0], args, { name: 'npm-pack-cuda' })
  })
}
