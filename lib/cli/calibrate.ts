import { type Command, Option } from 'commander'
import { calibrate } from '../calibrate.js'
import { besideTarget, prepareTarget } from '../checkpoint/directory.js'
import { removeStates } from '../checkpoint/state.js'
import { isQuantised } from '../compress.js'
import {
  addCalibrationOptions,
  type CalibrationFlags,
  heldOutOf,
  noteFewWindows,
  noteTightMemory,
  readSources,
  resumeHelp,
} from './calibration.js'
import { loadModel, noteDevice } from './load.js'
import { tellMemory } from './memory.js'
import { addCommonOptions, type CommonOptions } from './options.js'
import { formatBytes, print, printJson, shellWord } from './output.js'
import { elapsed, step } from './steps.js'

interface CalibrateFlags extends CommonOptions, CalibrationFlags {
  output: string
  resume: boolean
  overwrite: boolean
}

const dtypeHelp = 'type to compress to; int8 and int4 take moments, and f32 is held so (default: all but f32)'

export function registerCalibrate(program: Command, signal: AbortSignal): void {
  const command = program
    .command('calibrate')
    .description('calibrate a model once, for flrc compress --calibration DIR to cut from many times')
    .argument('<model>', 'Hugging Face directory, .gguf file or hub id org/name[@revision]')
    .requiredOption('-o, --output <dir>', 'directory to write: 5 to 8 bytes a block parameter')
    .addOption(
      new Option('--whitening <kind>', 'what the factors are optimal under (method asvd wants scaled)')
        .choices(['none', 'scaled', 'input', 'two-sided'])
        .default('two-sided'),
    )
  addCalibrationOptions(command)
  command
    .option('--resume', resumeHelp(), false)
    .option('--overwrite', 'replace an existing calibration', false)
  addCommonOptions(command, dtypeHelp).action((path: string, flags: CalibrateFlags) => run(path, flags, signal))
}

async function run(path: string, flags: CalibrateFlags, signal: AbortSignal): Promise<void> {
  const { dtype, device, threads, json, output, resume, overwrite, calibration: sources, ...options } = flags
  await prepareTarget(output, { overwrite, contents: 'calibration', source: path })
  const state = await besideTarget(output, 'calibration')
  const calibration = await readSources(sources)
  const seconds = { load: 0, save: 0 }
  const begin = performance.now()
  const wide = dtype === 'f32' ? dtype : undefined
  const inputMoments = dtype === undefined || isQuantised(dtype)
  const held = { dtype: wide ?? 'bf16', copies: 1, calibrates: { ...flags, inputMoments } } as const
  await tellMemory(path, held, signal)
  const model = await loadModel(path, { dtype: wide, device, threads }, signal)
  seconds.load = elapsed(begin)
  const made = await step('calibrate', (onProgress) =>
    calibrate(model, {
      ...{ ...options, calibration, inputMoments, heldOut: heldOutOf(flags), signal, onProgress },
      ...(resume ? { state, resume } : {}),
    }),
  )
  noteDevice([model])
  const saveBegin = performance.now()
  await step(`save ${output}`, (onProgress) => made.save(output, { overwrite, signal, onProgress }))
  seconds.save = elapsed(saveBegin)
  await removeStates(state)
  const { figures, scores, windowSeconds } = made
  const { forward, backward, moments, factorize, curves } = figures.seconds
  const result = {
    ...made.options,
    heldOut: made.heldOut.length,
    sources: made.sources,
    meanLoss: figures.meanLoss,
    bytes: made.storedBytes,
    scores: Object.fromEntries(Object.entries(scores).map(([name, { fisher }]) => [name, fisher])),
    seconds: {
      load: seconds.load,
      calibrate: windowSeconds + forward + backward + moments,
      ...{ factorize, curves },
      save: seconds.save,
      total: elapsed(begin),
    },
    peakBytes: figures.peakBytes,
  }
  if (json) await printJson(result)
  else await print(`${describe(path, output, result)}\n`)
  noteTightMemory(figures.atOnce, model.threads)
  noteFewWindows(made.options.samples, flags.samples)
}

function describe(
  path: string,
  output: string,
  result: { bytes: number; samples: number; tokens: number; heldOut: number; meanLoss: number },
): string {
  const { bytes, samples, tokens, heldOut, meanLoss } = result
  return (
    `${output}: ${formatBytes(bytes)}\n` +
    `calibrated on ${samples} windows (${tokens} tokens, perplexity ${Math.exp(meanLoss).toFixed(2)}), ${heldOut} held out\n` +
    `flrc compress ${shellWord(path)} -o OUT --keep .9 --calibration ${shellWord(output)}`
  )
}
