import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import path from 'node:path'
import type { Command } from 'commander'
import {
  type CalibratedSchedule,
  calibrateSchedule,
  checkGoal,
  checkLevels,
  type MeasuredSchedule,
} from '../calibrate-schedule.js'
import { ioError } from '../checkpoint/io.js'
import { storeSchedule } from '../checkpoint/schedule.js'
import { counted } from '../counted.js'
import { parseDialogues } from '../data/dialogues.js'
import { FlrcError } from '../errors.js'
import type { Model } from '../public-model.js'
import { readTextFile } from './files.js'
import { loadModel } from './load.js'
import { addCommonOptions, type CommonOptions, numberIn, parseFraction, wholeNumber } from './options.js'
import { formatTable, print, printJson } from './output.js'
import { step } from './steps.js'

interface CalibrateScheduleFlags extends CommonOptions {
  data: string
  budget?: number
  rougeLoss?: number
  reference?: string
  limit?: number
  maxTokens: number
}

export function registerCalibrateSchedule(program: Command, signal: AbortSignal): void {
  const command = program
    .command('calibrate-schedule')
    .description('choose a schedule on a development set, and store it for --schedule calibrated')
    .argument('<dir>', 'FLRC directory with several levels')
    .requiredOption('--data <file>', '.jsonl with dialogue or messages in each line, to choose by')
    .option('--budget <share>', 'the closest to the reference within this mean active budget', parseFraction)
    .option(
      '--rouge-loss <points>',
      "the cheapest whose ROUGE-L falls at most this far (0 to 1) below level 0's",
      numberIn(0, 1),
    )
    .option('--reference <model>', 'the model to stay close to (default: level 0 of <dir> itself)')
    .option('--limit <n>', 'samples from the start of the file (default: all)', wholeNumber(1))
    .option('--max-tokens <n>', 'tokens after each prompt at most', wholeNumber(1), 60)
  addCommonOptions(command).action(async (directory: string, flags: CalibrateScheduleFlags) => {
    const { json, data, budget, rougeLoss, limit, maxTokens, device, threads } = flags
    checkGoal(flags)
    const samples = parseDialogues(await readTextFile(data), data)
    const model = await loadModel(directory, flags, signal)
    await checkStorable(directory, model)
    const reference =
      flags.reference === undefined ? undefined : await loadModel(flags.reference, { device, threads }, signal)
    const result = await step('calibrate the schedule', (onProgress) =>
      calibrateSchedule(model, samples, {
        ...{ budget, rougeLoss, reference, limit, maxTokens, signal, onProgress },
      }),
    )
    await storeSchedule(directory, result.schedule)
    if (json) await printJson(result)
    else await print(describe(directory, result))
  })
}

/** Saying so at the end would cost the whole run. */
async function checkStorable(directory: string, model: Model): Promise<void> {
  const file = path.join(directory, 'config.json')
  if (model.source.flrc === undefined) {
    throw new FlrcError(
      'E_USAGE',
      `${directory}: no FLRC checkpoint; give a directory that flrc compress wrote`,
      {
        file: directory,
      },
    )
  }
  checkLevels(model)
  try {
    await access(directory, constants.W_OK)
  } catch (error) {
    throw ioError(error, file)
  }
}

function describe(
  directory: string,
  { schedule, frontier, samples, tokens, candidates }: CalibratedSchedule,
): string {
  const named = ({ schedule: name }: MeasuredSchedule) => `${name}${name === schedule ? ' *' : ''}`
  const losses = frontier.map((point) => [
    named(point),
    point.budget.toFixed(4),
    withInterval(point.kl, point.interval),
    `${(100 * point.agreement).toFixed(1)}%`,
  ])
  const tables = [formatTable(['schedule', 'budget', 'KL', 'agree'], losses)]
  const [first] = frontier
  const scores = [
    ...(first?.rougeL === undefined ? [] : ['ROUGE-L']),
    ...(first?.rougeLoss === undefined ? [] : ['lost of it']),
  ]
  // Beside the losses they would not fit a terminal's 80 columns.
  if (scores.length > 0) {
    const rows = frontier.map((point) => [named(point), ...rougeCells(point)])
    tables.push(formatTable(['schedule', ...scores], rows))
  }
  return (
    `${tables.join('\n\n')}\n${candidates} schedules compared over ${tokens} tokens of ${counted(samples, 'sample')}\n` +
    `${schedule} (*) is stored in ${directory}: --schedule calibrated\n`
  )
}

function rougeCells({ rougeL, rougeLoss, rougeLossInterval: interval }: MeasuredSchedule): string[] {
  return [
    ...(rougeL === undefined ? [] : [rougeL.toFixed(4)]),
    ...(rougeLoss === undefined || interval === undefined ? [] : [withInterval(rougeLoss, interval)]),
  ]
}

function withInterval(value: number, interval: readonly number[]): string {
  return `${value.toFixed(4)} (${interval.map((bound) => bound.toFixed(4)).join(' to ')})`
}
