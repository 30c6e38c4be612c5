import { availableParallelism } from 'node:os'
import path from 'node:path'
import { type Command, Option } from 'commander'
import type { CalibrateOptions, CalibrationText, Whitening } from '../calibrate.js'
import { calibrationRecord } from '../checkpoint/replaceable.js'
import { counted } from '../counted.js'
import { FlrcError } from '../errors.js'
import { statIfThere } from '../format/files.js'
import { readTextFile } from './files.js'
import { parseBytes, wholeNumber } from './options.js'
import { note } from './output.js'

/** Windows to measure on, beside those to calibrate on. */
const heldOutShare = 1 / 8

/** @param more what else it may take than is said of one calibration */
export function resumeHelp(more = ''): string {
  return (
    `keep every layer as it is done in a hidden folder beside the output (5 to 8 bytes a block parameter${more}, until ` +
    'all is done), and go on from what an interrupted run with --resume has kept'
  )
}

/** What every command that calibrates takes. */
export interface CalibrationFlags {
  whitening?: Whitening
  calibration?: string[]
  samples: number
  seqLen?: number
  seed: number
  labels: NonNullable<CalibrateOptions['labels']>
  memory?: number
}

/** @param more what `--calibration` takes beside texts, as the last words of its help */
export function addCalibrationOptions(command: Command, more = ''): Command {
  return command
    .option(
      '--calibration <sources...>',
      'what to calibrate on, each with its share of the samples: FILE[:WEIGHT] (plain text), FILE.jsonl[:WEIGHT] ' +
        `(dialogues, in the chat template) or self[:WEIGHT] (what the model writes itself; the default)${more}`,
    )
    .option('--samples <n>', 'windows of calibration text', wholeNumber(1), 64)
    .option(
      '--seq-len <n>',
      'tokens in a window (default: 512, or the context where that is less)',
      wholeNumber(2),
    )
    .option('--seed <n>', 'seed of the drawn labels and of self-written text', wholeNumber(0), 0)
    .addOption(
      new Option('--labels <source>', 'labels of the Fisher information')
        .choices(['model', 'data'])
        .default('model'),
    )
    .option(
      '--memory <size>',
      'memory beside the weights, such as 8GB (default: half of what there is)',
      parseBytes,
    )
}

/** Windows to hold out for measuring, where the texts have them. */
export function heldOutOf({ samples }: Pick<CalibrationFlags, 'samples'>): number {
  return Math.ceil(samples * heldOutShare)
}

/**
 * The folder of a stored calibration, where that is what `--calibration` names. E_USAGE for one beside other sources,
 * and for a folder that is none.
 */
export async function storedCalibration(given: readonly string[] = []): Promise<string | undefined> {
  for (const folder of given) {
    // What the model writes, also beside a folder of that name.
    if (folder === 'self') continue
    if (!(await statIfThere(folder))?.isDirectory()) continue
    if (!(await statIfThere(path.join(folder, calibrationRecord)))) {
      throw new FlrcError(
        'E_USAGE',
        `${folder}: a directory, and no calibration (without ${calibrationRecord}); give a file, or what flrc calibrate wrote`,
        { file: folder },
      )
    }
    if (given.length === 1) return folder
    throw new FlrcError(
      'E_USAGE',
      `${folder} is a calibration, and ${counted(given.length - 1, 'source')} is given beside it; give it alone`,
      { file: folder },
    )
  }
  return undefined
}

export async function readSources(given: readonly string[] = ['self']): Promise<CalibrationText[]> {
  const texts: CalibrationText[] = []
  for (const one of given) {
    const { file, weight } = splitWeight(one)
    if (file === 'self') {
      texts.push({ self: true, weight })
      continue
    }
    const content = await readTextFile(file)
    const source = { weight, name: file }
    texts.push(file.endsWith('.jsonl') ? { ...source, dialogues: content } : { ...source, text: content })
  }
  return texts
}

function splitWeight(given: string): { file: string; weight: number } {
  const match = /^(.+):([^:/]*)$/.exec(given)
  const weight = Number(match?.[2] || Number.NaN)
  if (!match?.[1] || Number.isNaN(weight)) return { file: given, weight: 1 }
  return { file: match[1], weight }
}

/** Says so where the texts had fewer windows than were asked for. */
export function noteFewWindows(windows: number, samples: number): void {
  if (windows >= samples) return
  note(
    `note: calibrated on ${counted(windows, 'window')} instead of ${samples}, as the texts have no more; ` +
      'give a longer text, or self beside it',
  )
}

/** Says so where the memory kept the calibration from doing more at once. */
export function noteTightMemory(
  { projections, oneInput }: { projections: number; oneInput: boolean },
  threads: number,
): void {
  if (!oneInput && projections >= Math.min(threads || availableParallelism(), 7)) return
  note(
    `note: the memory allowed ${projections} of a layer's projections to be factorised at once` +
      `${oneInput ? ', with the moments of one input at a time' : ''}; a larger --memory is faster`,
  )
}
