import path from 'node:path'
import type { Command } from 'commander'
import { benchDecode, type DecodeBench, type DecodeSubject } from '../bench/decode.js'
import { FlrcError } from '../errors.js'
import type { Model } from '../public-model.js'
import { parseSchedule, scheduleOn } from '../schedule.js'
import { loadModel, noteDevice } from './load.js'
import {
  addCommonOptions,
  type CommonOptions,
  collect,
  modelForms,
  scheduleHelp,
  wholeNumber,
} from './options.js'
import { formatBytes, formatTable, print, printJson } from './output.js'
import { step } from './steps.js'

interface DecodeFlags extends CommonOptions {
  schedule?: string[]
  tokens: number
  promptTokens: number
  rounds: number
}

export function registerBench(program: Command, signal: AbortSignal): void {
  const group = program.command('bench').description('measure speed')
  const command = group
    .command('decode')
    .description('decoding speed of models and schedules side by side, beside what their bytes allow')
    .argument('<models...>', `each a ${modelForms}`)
    .option(
      '--schedule <schedule>',
      `of the models with several levels, beside full; may be given several times: ${scheduleHelp}`,
      collect,
    )
    .option('--tokens <n>', 'tokens to decode', wholeNumber(1), 128)
    .option('--prompt-tokens <n>', 'tokens of the prompt', wholeNumber(1), 32)
    .option('--rounds <n>', 'rounds that count', wholeNumber(1), 5)
  addCommonOptions(command).action(async (paths: string[], flags: DecodeFlags) => {
    const { json, tokens, promptTokens, rounds, schedule: names = [] } = flags
    names.forEach(parseSchedule)
    const subjects: DecodeSubject[] = []
    for (const file of paths) {
      const model = await loadModel(file, flags, signal)
      subjects.push(...subjectsOf(path.basename(path.resolve(file)), model, names))
    }
    checkUse(names, subjects)
    const result = await step('decode', (onProgress) =>
      benchDecode(subjects, { tokens, promptTokens, rounds, signal, onProgress }),
    )
    noteDevice(subjects.map(({ model }) => model))
    if (json) await printJson(result)
    else await print(describe(result))
  })
}

/** A model at level 0, and under each schedule where that makes a difference. */
function subjectsOf(name: string, model: Model, schedules: readonly string[]): DecodeSubject[] {
  const several = model.levels.length > 1 ? schedules.filter((text) => text !== 'full') : []
  return [
    { name, model, scheduleName: 'full' },
    ...several.map((scheduleName) => {
      const schedule = scheduleOn(parseSchedule(scheduleName), model)
      return { name, model, scheduleName, schedule }
    }),
  ]
}

function checkUse(schedules: readonly string[], subjects: readonly DecodeSubject[]): void {
  const wanted = schedules.some((text) => text !== 'full')
  if (!wanted || subjects.some(({ schedule }) => schedule !== undefined)) return
  throw new FlrcError(
    'E_USAGE',
    'no model has several levels, so a schedule changes nothing; leave --schedule out',
  )
}

/** A model's rows under its name, which may be long, so that lines keep to 80 characters. */
function describe({ machine, rows, tokens, promptTokens, rounds }: DecodeBench): string {
  const perSecond = (bandwidth: number) => `${formatBytes(bandwidth)}/s`
  const speed = (value: number) => value.toFixed(value < 100 ? 1 : 0)
  const [low, high] = machine.bandwidthSpread
  const columns = ['', 'tokens/s', 'spread', 'limit', 'share', 'a token', 'budget']
  const lines = rows.map((row) => [
    `  ${row.schedule}`,
    speed(row.tokensPerSecond),
    row.spread.map(speed).join(' to '),
    speed(row.ceiling),
    `${(100 * row.bandwidthShare).toFixed(0)}%`,
    formatBytes(row.bytesPerToken),
    row.meanActiveBudget.toFixed(3),
  ])
  const [header, rule, ...body] = formatTable(columns, lines).split('\n')
  // Each model's first row is that of level 0.
  const titled = rows.flatMap(({ name, dtype, schedule }, i) =>
    schedule === 'full' ? [`${name}, ${dtype}`, body[i]] : [body[i]],
  )
  return (
    `${[header, rule, ...titled].join('\n')}\n` +
    `${tokens} tokens after ${promptTokens}, median of ${rounds} rounds\n` +
    `limit: what reading ${perSecond(machine.bandwidth)} (${perSecond(low)} to ${perSecond(high)}) allows\n`
  )
}
