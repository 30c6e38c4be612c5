import { Model } from '../public-model.js'
import type { CommonOptions } from './options.js'
import { step } from './steps.js'

/** The first step of most commands: loads the model as the common options say. */
export function loadModel(
  path: string,
  { dtype, device, threads }: Omit<CommonOptions, 'json'>,
  signal: AbortSignal,
): Promise<Model> {
  return step('load', (onProgress) => Model.load(path, { dtype, device, threads, signal, onProgress }))
}
