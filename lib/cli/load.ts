import { callNative } from '../binding.js'
import { Model } from '../public-model.js'
import type { CommonOptions, ScheduleOptions } from './options.js'
import { note } from './output.js'
import { step } from './steps.js'

/** The first step of most commands: loads the model as the common options say. */
export function loadModel(
  path: string,
  { dtype, device, threads, below }: Omit<CommonOptions, 'json'> & Pick<ScheduleOptions, 'below'>,
  signal: AbortSignal,
): Promise<Model> {
  return step('load', (onProgress) => Model.load(path, { dtype, device, threads, below, signal, onProgress }))
}

/** Says what has been found out about the models' device while it computed, such as a faster way that it fails at. */
export function noteDevice(models: readonly Pick<Model, 'plugin'>[]): void {
  for (const file of new Set(models.map(({ plugin }) => plugin?.file))) {
    const notes = file === undefined ? '' : callNative((addon) => addon.pluginNotes(file))
    if (notes !== '') note(`note: ${notes}`)
  }
}

/** Says so where a schedule can change nothing. */
export function noteUnusedSchedule(schedule: string, model: Model): void {
  if (schedule === 'full' || model.levels.length > 1) return
  note(
    'note: the model has one level, so the schedule changes nothing; levels come from flrc compress --levels',
  )
}
