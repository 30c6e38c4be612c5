import { existsSync, readdirSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { packageRoot, runTask } from './binding.js'
import { FlrcError } from './errors.js'
import type { StorageDtype } from './format/types.js'

/** Where a model computes. */
export type DeviceType = 'cpu' | 'cuda'

/** What a caller may ask for: `auto` is the GPU where there is one that can be used, the CPU otherwise. */
export type Device = 'auto' | DeviceType

/** A plugin that can run here. */
export interface ChosenPlugin {
  /** Absolute path. */
  file: string
  /** The device as its maker calls it. */
  device: string
}

/** The npm package that brings the plugin. */
const pluginPackage = '@flrc/cuda'
const pluginPlatform = 'linux-x64'
/** A plugin, or a folder of plugins, in place of those that are installed. */
const pathVariable = 'FLRC_BACKEND_PATH'
const pluginName = /^flrc_cuda\w*\.so$/

/**
 * The plugin to compute with, or undefined for the CPU. `auto` takes the plugin that says it suits this machine best.
 * `cuda` without one is E_DEVICE, and says of each plugin what is missing: the package, the driver, the device, a version
 * that fits, or the type of the weights. A FLRC_BACKEND_PATH that leads nowhere is E_DEVICE for both.
 */
export async function choosePlugin(
  device: Device,
  dtype: StorageDtype,
  signal?: AbortSignal,
): Promise<ChosenPlugin | undefined> {
  if (device === 'cpu') return undefined
  const refusals: string[] = []
  let best: (ChosenPlugin & { score: number }) | undefined
  for (const file of pluginFiles()) {
    try {
      const plugin = await runTask((addon) => addon.probePlugin(file), [signal])
      if (plugin.score === 0) refusals.push(`${file}: ${plugin.missing}`)
      else if (!plugin.dtypes[dtype]) refusals.push(`${file} takes no weights in ${dtype}; use another dtype`)
      else if (best === undefined || plugin.score > best.score)
        best = { file, device: plugin.device, score: plugin.score }
    } catch (error) {
      if (!(error instanceof FlrcError) || error.code !== 'E_DEVICE') throw error
      refusals.push(error.message)
    }
  }
  if (best !== undefined || device === 'auto') return best
  if (refusals.length > 0) throw new FlrcError('E_DEVICE', `${refusals.join('; ')}; or use device cpu`)
  const here = `${process.platform}-${process.arch}`
  throw new FlrcError(
    'E_DEVICE',
    here === pluginPlatform
      ? `the CUDA plugin is not installed: npm install ${pluginPackage}, or set ${pathVariable} to a plugin; or use device cpu`
      : `there is no CUDA plugin for ${here}, only for ${pluginPlatform}; use device cpu`,
  )
}

/** Plugins in the order in which they are tried: what the environment names, or else the package's or this checkout's. */
function pluginFiles(): string[] {
  const named = process.env[pathVariable]
  if (named) {
    const place = path.resolve(named)
    const files = pluginsAt(place)
    if (files.length > 0) return files
    throw new FlrcError(
      'E_DEVICE',
      `${pathVariable}: there is no plugin at ${place}; unset it, or set it to one`,
      { file: place },
    )
  }
  const folders = [installedFolder(), path.join(packageRoot, 'build', 'cuda')]
  return folders.flatMap((folder) => (folder === undefined ? [] : pluginsAt(folder)))
}

function installedFolder(): string | undefined {
  try {
    const manifest = createRequire(import.meta.url).resolve(`${pluginPackage}/package.json`)
    return path.join(path.dirname(manifest), 'prebuilds', `${process.platform}-${process.arch}`)
  } catch {
    return undefined
  }
}

/** The file itself, or the plugins in a folder. */
function pluginsAt(place: string): string[] {
  if (!existsSync(place)) return []
  if (!statSync(place).isDirectory()) return [place]
  const names = readdirSync(place).filter((name) => pluginName.test(name))
  return names.sort().map((name) => path.join(place, name))
}
