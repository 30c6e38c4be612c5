import { Model } from '../public-model.js'
import type { BelowOption, CommonOptions } from './options.js'
import { step } from './steps.js'

/** The first step of most commands: loads the model as the common options say. */
export function loadModel(
  path: string,
  { dtype, device, threads, below }: Omit<CommonOptions, 'json'> & BelowOption,
  signal: AbortSignal,
): Promise<Model> {
  return step('load', (onProgress) => Model.load(path, { dtype, device, threads, below, signal, onProgress }))
}
