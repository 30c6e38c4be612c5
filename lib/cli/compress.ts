import { availableParallelism } from 'node:os'
import { type Command, Option } from 'commander'
import { type AllocationMethod, denseParametersOf, type FactorStorage } from '../allocate.js'
import { type CalibrateOptions, type CalibrationText, usualWhitening, type Whitening } from '../calibrate.js'
import { windowLength } from '../calibration/windows.js'
import { besideTarget, prepareTarget } from '../checkpoint/directory.js'
import type { CompressionPlan } from '../checkpoint/plan.js'
import { checkCompressOptions, compress, isQuantised, type KeepOptions, type ScoreKind } from '../compress.js'
import { counted } from '../counted.js'
import { FlrcError } from '../errors.js'
import type { StorageDtype } from '../format/types.js'
import { checkMemory, memoryNeeds, recoveryBytes, weightBytes } from '../memory.js'
import { projectionsOf } from '../model.js'
import { openModel } from '../open-model.js'
import type { CompressionReport } from '../public-model.js'
import type { RecoveryReport } from '../recover/report.js'
import { removeRecoveryStates } from '../recover/state.js'
import { readTextFile } from './files.js'
import { loadModel } from './load.js'
import {
  addCommonOptions,
  type CommonOptions,
  numberIn,
  parseBytes,
  parseDecimalBytes,
  parseFraction,
  parseFractions,
  parseShare,
  wholeNumber,
} from './options.js'
import { formatBytes, formatTable, note, print, printJson } from './output.js'
import { step } from './steps.js'

/** Windows to measure on, beside those to calibrate on. */
const heldOutShare = 1 / 8

interface CompressFlags extends CommonOptions {
  output: string
  keep?: number
  targetBytes?: number
  targetPerplexityIncrease?: number
  targetTokensPerSecond?: number
  method: AllocationMethod
  whitening?: Whitening
  calibration?: string[]
  samples: number
  seqLen?: number
  seed: number
  levels?: number[]
  levelWeights?: number[]
  score: ScoreKind
  power: number
  rankFloor?: number
  rankMultiple: number
  dense: boolean
  storage: FactorStorage
  labels: NonNullable<CalibrateOptions['labels']>
  memory?: number
  recover?: number
  resume: boolean
  overwrite: boolean
}

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
      numberIn(0, Number.MAX_VALUE, true),
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
    .option(
      '--calibration <sources...>',
      'what to calibrate on, each with its share of the samples: FILE[:WEIGHT] (plain text), FILE.jsonl[:WEIGHT] ' +
        '(dialogues, in the chat template) or self[:WEIGHT] (what the model writes itself; the default)',
    )
    .option('--samples <n>', 'windows of calibration text', wholeNumber(1), 64)
    .option(
      '--seq-len <n>',
      'tokens in a window (default: 512, or the context where that is less)',
      wholeNumber(2),
    )
    .option('--seed <n>', 'seed of the drawn labels and of self-written text', wholeNumber(0), 0)
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
    .option(
      '--recover <minutes>',
      'train the factors towards the dense model for so long',
      numberIn(0, Number.MAX_VALUE, true),
    )
    .option('--resume', 'go on with an interrupted --recover, and make the rest again', false)
    .option('--overwrite', 'replace an existing checkpoint', false)
  addCommonOptions(command).action((path: string, flags: CompressFlags) => run(path, flags, signal))
}

async function run(path: string, flags: CompressFlags, signal: AbortSignal): Promise<void> {
  const { dtype, device, threads, json, output, overwrite, calibration: files, ...others } = flags
  const { recover: minutes, resume, ...options } = others
  checkTargets(options)
  checkCompressOptions({ ...options, dtype })
  if (resume && minutes === undefined) {
    note('note: only a --recover leaves something to go on from; everything else is made again, the same')
  }
  // Saying so at the end would cost the whole run.
  await prepareTarget(output, { overwrite, source: path })
  const state = await besideTarget(output, 'recovery')
  const recover = minutes === undefined ? undefined : { minutes, state, resume }
  const calibration = await readCalibration(files)
  // A recovery holds windows out for itself.
  const heldOut = recover ? undefined : Math.ceil(options.samples * heldOutShare)
  const seconds = { load: 0, save: 0 }
  const begin = performance.now()
  // Factors narrower than bf16 are still cut from weights of full width.
  const wide = dtype === 'f32' ? dtype : undefined
  await tellMemory(path, flags, wide ?? 'bf16', signal)
  const model = await loadModel(path, { dtype: wide, device, threads }, signal)
  seconds.load = elapsed(begin)
  const small = await step('compress', (onProgress) =>
    compress(model, { ...options, dtype, calibration, recover, heldOut, signal, onProgress }),
  )
  const saveBegin = performance.now()
  await step(`save ${output}`, (onProgress) => small.save(output, { overwrite, signal, onProgress }))
  seconds.save = elapsed(saveBegin)
  if (recover) await removeRecoveryStates(state)
  const { atOnce, heldOut: measured, ...report } = small.report as CompressionReport
  const { solve: _solve, measure: _measure, ...stages } = report.seconds
  const result = { ...report, seconds: { ...stages, ...seconds, total: elapsed(begin) } }
  if (json) await printJson(result)
  else await print(`${describe(output, { ...report, heldOut: measured })}\n`)
  if (atOnce.oneInput || atOnce.projections < Math.min(model.threads || availableParallelism(), 7)) {
    note(
      `note: the memory allowed ${atOnce.projections} of a layer's projections to be factorised at once` +
        `${atOnce.oneInput ? ', with the moments of one input at a time' : ''}; a larger --memory is faster`,
    )
  }
  const { windows } = (small.plan as CompressionPlan).calibration
  if (windows < options.samples) {
    note(
      `note: calibrated on ${counted(windows, 'window')} instead of ${options.samples}, as the texts have no more; ` +
        'give a longer text, or self beside it',
    )
  }
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

/** What it will take, said before it is taken; E_OUT_OF_MEMORY where that is not there. */
async function tellMemory(
  path: string,
  { dtype: stored, method, whitening, samples, seqLen, threads, memory, recover }: CompressFlags,
  dtype: StorageDtype,
  signal: AbortSignal,
): Promise<void> {
  const source = await step('read', (onProgress) => openModel(path, { signal, onProgress }))
  const training = recover === undefined ? 0 : recoveryBytes * denseParametersOf(projectionsOf(source.config))
  const needs = memoryNeeds(source.config, {
    whitening: whitening ?? (method === 'asvd' ? 'scaled' : usualWhitening),
    inputMoments: stored !== undefined && isQuantised(stored),
    ...{ samples, threads, seqLen: windowLength(source, seqLen) },
    weights: 2 * weightBytes(source, dtype) + training,
  })
  checkMemory(needs, memory)
  const { weights, least, everything, available } = needs
  note(
    `memory: ${formatBytes(weights)} for weights${training > 0 ? ' and their training' : ''}, ` +
      `${formatBytes(least)} to ${formatBytes(everything)} to calibrate; ${formatBytes(available)} are free`,
  )
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

function elapsed(begin: number): number {
  return (performance.now() - begin) / 1000
}

function parseWeights(text: string): number[] {
  return text.split(',').map((part) => numberIn(0, Number.MAX_VALUE)(part.trim()))
}

async function readCalibration(given: readonly string[] = ['self']): Promise<CalibrationText[]> {
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

function splitWeight(given: string): { file: string; weight: number } {
  const match = /^(.+):([^:/]*)$/.exec(given)
  const weight = Number(match?.[2] || Number.NaN)
  if (!match?.[1] || Number.isNaN(weight)) return { file: given, weight: 1 }
  return { file: match[1], weight }
}

function describe(output: string, report: Omit<CompressionReport, 'atOnce'>): string {
  const { keep, storedParameters, denseParameters, storedBytes, levels, ranks, dense, heldOut } = report
  const factored = Object.keys(ranks).length
  const head =
    `${output}: ${formatBytes(storedBytes)}\n` +
    `keeps ${(keep * 100).toFixed(2)}% of the block parameters (${storedParameters} of ${denseParameters})\n` +
    `${factored} projections factored, ${dense.length} left dense\n`
  const rows = levels.map((level, index) => [
    String(index),
    level.budget.toFixed(4),
    ...(heldOut ? [(heldOut.levels[index]?.perplexity ?? Number.NaN).toFixed(2)] : []),
  ])
  if (heldOut) rows.unshift(['dense', '1.0000', heldOut.dense.perplexity.toFixed(2)])
  const table = formatTable(['level', 'active budget', ...(heldOut ? ['perplexity'] : [])], rows)
  const measured = heldOut
    ? [
        `perplexity on ${counted(heldOut.windows, 'window')} that ${heldOut.windows === 1 ? 'was' : 'were'} not calibrated on`,
      ]
    : []
  return [head, table, ...measured, ...(report.recovery ? [describeRecovery(report.recovery)] : [])].join('\n')
}
