import { type Command, Option } from 'commander'
import type { AllocationMethod, FactorStorage } from '../allocate.js'
import { Calibration } from '../calibrate.js'
import { besideTarget, prepareTarget } from '../checkpoint/directory.js'
import type { CompressionPlan } from '../checkpoint/plan.js'
import { removeStates } from '../checkpoint/state.js'
import { dropsChannels, mostDropped } from '../compress/options.js'
import {
  type CompressOptions,
  checkCompressOptions,
  compress,
  isQuantised,
  type KeepOptions,
  type ScoreKind,
} from '../compress.js'
import { counted } from '../counted.js'
import { FlrcError } from '../errors.js'
import type { CompressionReport, Model } from '../public-model.js'
import type { RecoveryReport } from '../recover/report.js'
import {
  addCalibrationOptions,
  type CalibrationFlags,
  heldOutOf,
  noteFewWindows,
  noteTightMemory,
  readSources,
  resumeHelp,
  storedCalibration,
} from './calibration.js'
import { loadModel, noteDevice } from './load.js'
import { tellMemory } from './memory.js'
import {
  addCommonOptions,
  type CommonOptions,
  numberIn,
  parseDecimalBytes,
  parseFraction,
  parseFractions,
  parseShare,
  wholeNumber,
} from './options.js'
import { formatBytes, formatTable, note, print, printJson } from './output.js'
import { elapsed, step } from './steps.js'

interface CompressFlags extends CommonOptions, CalibrationFlags {
  output: string
  keep?: number
  targetBytes?: number
  targetPerplexityIncrease?: number
  targetTokensPerSecond?: number
  method: AllocationMethod
  levels?: number[]
  levelWeights?: number[]
  score: ScoreKind
  power: number
  rankFloor?: number
  rankMultiple: number
  dense: boolean
  storage: FactorStorage
  dropChannels?: number | 'auto'
  recover?: number
  resume: boolean
  overwrite: boolean
}

const dtypeHelp =
  "type that the checkpoint is stored in (default: bf16); f32 also holds the model's weights in f32"

export function registerCompress(program: Command, signal: AbortSignal): void {
  const command = program
    .command('compress')
    .description('compress a model into an FLRC checkpoint')
    .argument('<model>', 'Hugging Face directory, .gguf file or hub id org/name[@revision]')
    .requiredOption('-o, --output <dir>', 'directory to write')
    .option(
      '--keep <share>',
      'block parameters to keep, above 0, at most 1; or one of the targets',
      parseFraction,
    )
    .option('--target-bytes <size>', 'keep as much as fits a size, such as 80MB', parseDecimalBytes)
    .option(
      '--target-perplexity-increase <share>',
      'keep as little as raises perplexity on held-out text by at most this, such as 5% or .05',
      parseShare,
    )
    .option(
      '--target-tokens-per-second <n>',
      'keep as much as decodes this fast on this machine',
      numberIn(0, Number.POSITIVE_INFINITY, true),
    )
    .addOption(
      new Option('--method <method>', 'how rank is shared out')
        .choices(['curve', 'fisher', 'energy', 'asvd', 'uniform'])
        .default('curve'),
    )
    .addOption(
      new Option(
        '--whitening <kind>',
        'what the factors are optimal under (default: two-sided, or scaled for method asvd)',
      ).choices(['none', 'scaled', 'input', 'two-sided']),
    )
  addCalibrationOptions(command, ', or alone a folder that flrc calibrate wrote')
  command
    .option('--levels <budgets>', 'falling active budgets, such as .8,.75,.7', parseFractions)
    .option('--level-weights <weights>', 'share of tokens spent at each level, such as 2,1,1', parseWeights)
    .addOption(
      new Option('--score <kind>', 'method fisher: sum (G o W)^2, sum G^2 or sum |G o W|')
        .choices(['fisher', 'gradient', 'taylor'])
        .default('fisher'),
    )
    .option(
      '--power <p>',
      'method fisher: rank in proportion to score^p',
      numberIn(0, Number.POSITIVE_INFINITY),
      1,
    )
    .option(
      '--rank-floor <r>',
      'least rank: whole, or a share of full rank',
      numberIn(0, Number.POSITIVE_INFINITY),
    )
    .option('--rank-multiple <n>', 'ranks are multiples of this', wholeNumber(1), 1)
    .option('--no-dense', 'leave no projection dense')
    .addOption(
      new Option('--storage <kind>', 'how factors are stored').choices(['pivoted', 'plain']).default('pivoted'),
    )
    .option(
      '--drop-channels <share>',
      "share of the MLPs' channels to drop first, or auto for as many as pay at that keep",
      parseDrop,
    )
    .option(
      '--recover <minutes>',
      'train the factors towards the dense model for so long',
      numberIn(0, Number.POSITIVE_INFINITY, true),
    )
    .option('--resume', resumeHelp(', up to twice that with --drop-channels auto'), false)
    .option('--overwrite', 'replace an existing checkpoint', false)
  addCommonOptions(command, dtypeHelp).action((path: string, flags: CompressFlags) =>
    run(path, flags, givenOf(command), signal),
  )
}

/** Whether an option is the user's, not its default. */
type Given = (option: keyof CompressFlags) => boolean

function givenOf(command: Command): Given {
  return (option) => command.getOptionValueSource(option) === 'cli'
}

async function run(path: string, flags: CompressFlags, given: Given, signal: AbortSignal): Promise<void> {
  const { dtype, device, threads, json, output, overwrite, calibration: sources, ...others } = flags
  const { recover: minutes, resume, ...options } = others
  checkTargets(options)
  checkCompressOptions({ ...options, dtype })
  const stored = await storedCalibration(sources)
  // Saying so at the end would cost the whole run.
  await prepareTarget(output, { overwrite, source: path })
  const states = {
    calibration: await besideTarget(output, 'calibration'),
    recovery: await besideTarget(output, 'recovery'),
  }
  const recover = minutes === undefined ? undefined : { minutes, state: states.recovery, resume }
  const texts = stored === undefined ? await readSources(sources) : []
  const seconds = { load: 0, save: 0 }
  const begin = performance.now()
  // Factors narrower than bf16 are still cut from weights of full width.
  const wide = dtype === 'f32' ? dtype : undefined
  const inputMoments = dtype !== undefined && isQuantised(dtype)
  const whitening = flags.whitening ?? (flags.method === 'asvd' ? 'scaled' : undefined)
  const ranksChannels = dropsChannels(flags)
  // What is left of the channels is calibrated, whatever calibration is at hand.
  const calibrating = stored === undefined || ranksChannels
  const calibrates = calibrating ? { ...flags, whitening, inputMoments, ranksChannels } : undefined
  const held = { dtype: wide ?? 'bf16', copies: 2, trains: recover !== undefined, calibrates } as const
  await tellMemory(path, held, signal)
  const model = await loadModel(path, { dtype: wide, device, threads }, signal)
  const calibration = stored === undefined ? texts : await loadCalibration(model, stored, flags, signal)
  seconds.load = elapsed(begin)
  const kept = resume ? { state: states.calibration, resume } : {}
  const shared = { ...options, dtype, recover, signal, ...kept }
  // What a calibration at hand was made with holds, and what is asked for beside it has to agree.
  const how: CompressOptions =
    calibration instanceof Calibration
      ? { ...shared, ...onlyGiven(flags, given), whitening, calibration }
      : // A recovery holds windows out for itself.
        { ...shared, calibration, heldOut: recover ? undefined : heldOutOf(flags) }
  const small = await step('compress', (onProgress) => compress(model, { ...how, onProgress }))
  noteDevice([model])
  if (calibration instanceof Calibration) calibration.dispose()
  const saveBegin = performance.now()
  await step(`save ${output}`, (onProgress) => small.save(output, { overwrite, signal, onProgress }))
  seconds.save = elapsed(saveBegin)
  for (const state of Object.values(states)) await removeStates(state)
  const { atOnce, heldOut: measured, ...report } = small.report as CompressionReport
  const { solve: _solve, measure: _measure, ...stages } = report.seconds
  const result = { ...report, seconds: { ...stages, ...seconds, total: elapsed(begin) } }
  if (json) await printJson(result)
  else await print(`${describe(output, { ...report, heldOut: measured })}\n`)
  if (stored === undefined) {
    noteTightMemory(atOnce, model.threads)
    noteFewWindows((small.plan as CompressionPlan).calibration.windows, options.samples)
  }
  noteFullLevels(options.levels, small)
  if (report.storedBytes > report.sourceBytes) {
    const narrower = dtype === 'int8' ? 'int4' : 'int8'
    const smaller = options.targetBytes === undefined ? '--target-bytes' : 'a smaller --target-bytes'
    const remedy = `try ${dtype === 'int4' ? smaller : `--dtype ${narrower}`}`
    note(
      `note: the checkpoint (${formatBytes(report.storedBytes)}) is larger than its source ` +
        `(${formatBytes(report.sourceBytes)}), whose weights are stored in fewer bits; ${remedy}`,
    )
  }
}

/** Says so where levels are left out because, without some channels, level 0 reads no more than they may. */
function noteFullLevels(asked: readonly number[] = [], { plan, report, keep }: Model): void {
  const { channels, storedParameters = 0, denseParameters = 1 } = report ?? {}
  const gone = asked.filter((budget) => budget < keep && !plan?.budgets.includes(budget))
  if (channels === undefined || gone.length === 0) return
  note(
    `note: ${counted(gone.length, 'level')} left out (${gone.join(', ')}): without ${(channels.dropped * 100).toFixed(1)}% of ` +
      `the channels, level 0 reads ${(storedParameters / denseParameters).toFixed(4)}; give levels below that`,
  )
}

/** The options that decide a calibration, where the user gave them. */
function onlyGiven(
  { samples, seed, labels }: CalibrationFlags,
  given: Given,
): Pick<CompressOptions, 'samples' | 'seed' | 'labels'> {
  return {
    samples: given('samples') ? samples : undefined,
    seed: given('seed') ? seed : undefined,
    labels: given('labels') ? labels : undefined,
  }
}

async function loadCalibration(
  model: Model,
  directory: string,
  { method, whitening, memory }: CompressFlags,
  signal: AbortSignal,
): Promise<Calibration> {
  const calibration = await step(`read ${directory}`, (onProgress) =>
    Calibration.load(model, directory, { memory, signal, onProgress }),
  )
  const has = calibration.options.whitening
  if (method === 'asvd' && whitening === undefined && has !== 'scaled') {
    throw new FlrcError(
      'E_USAGE',
      `method asvd goes with --whitening scaled, and ${directory} was calibrated with ${has}; calibrate with ` +
        `scaled, or say --whitening ${has}`,
      { file: directory },
    )
  }
  return calibration
}

/** In the words of the command line; `checkCompressOptions` has those of the API. */
function checkTargets(flags: KeepOptions): void {
  const names = {
    keep: '--keep',
    targetBytes: '--target-bytes',
    targetPerplexityIncrease: '--target-perplexity-increase',
    targetTokensPerSecond: '--target-tokens-per-second',
  }
  const all = Object.values(names)
  const given = Object.entries(names).flatMap(([key, name]) =>
    flags[key as keyof KeepOptions] === undefined ? [] : [name],
  )
  if (given.length === 1) return
  const what = given.length === 0 ? 'nothing says how much to keep' : `${given.join(' and ')} are given`
  throw new FlrcError('E_USAGE', `${what}; give exactly one of ${all.join(', ')}`)
}

function parseDrop(text: string): number | 'auto' {
  return text === 'auto' ? text : numberIn(0, mostDropped)(text)
}

function parseWeights(text: string): number[] {
  return text.split(',').map((part) => numberIn(0, Number.POSITIVE_INFINITY)(part.trim()))
}

function describeRecovery({ minutes, steps, tokens, curve, best }: RecoveryReport): string {
  const before = curve[0]
  const rows = best.kl.map((kl, level) => [
    String(level),
    (before?.kl[level] ?? Number.NaN).toFixed(4),
    kl.toFixed(4),
  ])
  const head = `recovered for ${minutes.toFixed(1)} minutes: ${steps} steps, ${tokens} tokens; KL to the dense model on held-out windows:`
  return `${head}\n${formatTable(['level', 'before', 'after'], rows)}`
}

function describeChannels({
  intermediateSizes: left,
  channels,
}: Pick<CompressionReport, 'intermediateSizes' | 'channels'>): string {
  if (left === undefined || channels === undefined) return ''
  const range = `${Math.min(...left)} to ${Math.max(...left)}`
  return `${(channels.dropped * 100).toFixed(1)}% of the MLPs' channels dropped: ${range} of them left in a layer\n`
}

function describe(output: string, report: Omit<CompressionReport, 'atOnce'>): string {
  const { storedParameters, denseParameters, storedBytes, levels, ranks, dense, heldOut } = report
  const factored = Object.keys(ranks).length
  const head =
    `${output}: ${formatBytes(storedBytes)}\n` +
    `keeps ${((storedParameters / denseParameters) * 100).toFixed(2)}% of the block parameters (${storedParameters} of ${denseParameters})\n` +
    `${factored} projections factored, ${dense.length} left dense\n${describeChannels(report)}`
  const rows = levels.map((level, index) => [
    String(index),
    level.budget.toFixed(4),
    ...(heldOut ? [(heldOut.levels[index]?.perplexity ?? Number.NaN).toFixed(2)] : []),
  ])
  if (heldOut)
    rows.unshift(['dense', (heldOut.dense.budget ?? 1).toFixed(4), heldOut.dense.perplexity.toFixed(2)])
  const table = formatTable(['level', 'active budget', ...(heldOut ? ['perplexity'] : [])], rows)
  const measured = heldOut
    ? [
        `perplexity on ${counted(heldOut.windows, 'window')} that ${heldOut.windows === 1 ? 'was' : 'were'} not calibrated on`,
      ]
    : []
  return [head, table, ...measured, ...(report.recovery ? [describeRecovery(report.recovery)] : [])].join('\n')
}
