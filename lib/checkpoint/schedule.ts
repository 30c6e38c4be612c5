import { join } from 'node:path'
import { FlrcError } from '../errors.js'
import { isObject, readJsonObject } from '../format/files.js'
import { flrcHeader } from '../format/flrc-header.js'
import { calibrated, parseSchedule } from '../schedule.js'
import { replaceFile } from './io.js'

/** A config.json beyond this is none. */
const configLimit = 64_000_000

/**
 * Stores the schedule that `calibrated` means in a checkpoint's config.json, as `flrc.schedule`; everything else in
 * the file stays as it is. A killed run leaves the old file or the new one.
 *
 * @param schedule in the command line's words, such as `linear:.9:.7:32`
 * @throws E_USAGE for a schedule that cannot be read or a directory that is no FLRC checkpoint, E_NOT_FOUND, E_IO,
 *   E_MODEL_FORMAT, E_VERSION
 */
export async function storeSchedule(directory: string, schedule: string): Promise<void> {
  if (parseSchedule(schedule) === calibrated()) {
    throw new FlrcError('E_USAGE', 'calibrated names the stored schedule itself; give the one to store')
  }
  const file = join(directory, 'config.json')
  const config = await readJsonObject(file, { limit: configLimit, code: 'E_MODEL_FORMAT' })
  if (config.model_type !== 'flrc' || !isObject(config.flrc)) {
    throw new FlrcError(
      'E_USAGE',
      `${file}: no FLRC checkpoint, so it can store no schedule; give a directory that flrc compress wrote`,
      { file },
    )
  }
  flrcHeader(config.flrc, file)
  const changed = { ...config, flrc: { ...config.flrc, schedule } }
  await replaceFile(file, `${JSON.stringify(changed, undefined, 2)}\n`)
}
