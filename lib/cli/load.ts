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

/** Says so where a schedule can change nothing. */
export function noteUnusedSchedule(schedule: string, model: Model): void {
  if (schedule === 'full' || model.levels.length > 1) return
  note(
    'note: the model has one level, so the schedule changes nothing; levels come from flrc compress --levels',
  )
}
