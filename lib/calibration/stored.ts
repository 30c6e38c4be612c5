import { join } from 'node:path'
import { type Sensitivity, sensitivityRatios } from '../allocate.js'
import { packageVersions } from '../binding.js'
import type { Calibration, CalibrationContents } from '../calibrate.js'
import { writeDirectory } from '../checkpoint/directory.js'
import { createFile } from '../checkpoint/io.js'
import { sha256OfFile, sha256OfText } from '../checkpoint/plan.js'
import { calibrationRecord } from '../checkpoint/replaceable.js'
import { writeWeights } from '../checkpoint/weights.js'
import { FlrcError } from '../errors.js'
import { readSafetensors, tensorSource } from '../format/safetensors.js'
import type { TensorSource } from '../format/types.js'
import type { LoadedModel, TaskOptions } from '../model.js'
import type { CalibrationHandle } from './handle.js'
import { type CalibrationRecord, readRecord, recordJson, recordVersion } from './record.js'
import { checkWindow } from './windows.js'

export interface SaveCalibrationOptions extends TaskOptions {
  /** Replaces a calibration that is already there; without it that is E_EXISTS. */
  overwrite?: boolean
  /** Largest file in bytes of tensor data; 5 GB by default. */
  shardBytes?: number
}

/**
 * Writes a calibration: a whole directory or nothing. Errors: E_EXISTS (also for the model that was calibrated), E_IO,
 * E_ABORTED, E_DISPOSED.
 */
export async function saveCalibration(
  calibration: Calibration,
  handle: CalibrationHandle,
  directory: string,
  { overwrite, shardBytes, signal, onProgress }: SaveCalibrationOptions,
): Promise<void> {
  const { model, scores, figures, options, sources, hashes } = calibration
  const entries = handle.tensorEntries()
  const target = { overwrite, contents: 'calibration', source: model.source.path, signal } as const
  await writeDirectory(directory, target, async (folder) => {
    const { files } = await writeWeights(
      folder,
      entries,
      (file, names, offsets) => handle.writeTensors(file, names, offsets, { signal, onProgress }),
      { name: 'calibration', shardBytes, signal },
    )
    const hashed: CalibrationRecord['files'] = {}
    for (const file of files.filter((name) => name.endsWith('.safetensors'))) {
      hashed[file] = await sha256OfFile(join(folder, file), signal)
    }
    const { seconds, peakBytes, atOnce, lossTokens, meanLoss } = figures
    const record: CalibrationRecord = {
      version: recordVersion,
      model: { ...model.source.hub, sha256: hashes.model, config: configHash(model), dtype: model.dtype },
      calibration: { sha256: hashes.calibration, sources: [...sources] },
      options,
      curves: calibration.hasCurves,
      figures: {
        ...{ lossTokens, meanLoss, peakBytes, atOnce },
        seconds: { ...seconds, windows: calibration.windowSeconds },
      },
      sensitivities: [...calibration.sensitivities.values()].map(({ projections, ...rest }) => ({
        ...{ ...rest, ratios: [...rest.ratios] },
        projections: projections.map((one) => ({ ...one, losses: Array.from(one.losses) })),
      })),
      files: hashed,
      windows: calibration.windows.map((window) => Array.from(window)),
      heldOut: calibration.heldOut.map((window) => Array.from(window)),
    }
    await createFile(
      join(folder, calibrationRecord),
      recordJson(record, { scores, versions: packageVersions() }),
    )
  })
}

/** What `saveCalibration` wrote, checked against this model, whose weights' hash is `modelHash`. */
export async function loadCalibration(
  model: LoadedModel,
  directory: string,
  modelHash: string,
  { memory, ...task }: TaskOptions & { memory: number },
): Promise<CalibrationContents> {
  const record = await readRecord(directory)
  checkModelOf(record, model, directory, modelHash)
  const file = join(directory, calibrationRecord)
  const read = (windows: readonly number[][]) =>
    windows.map((window) => checkWindow(Int32Array.from(window), model, file))
  const { options, curves, calibration, figures: recorded } = record
  const { windows: windowSeconds, ...seconds } = recorded.seconds
  const windows = read(record.windows)
  const heldOut = read(record.heldOut)
  const sensitivities = record.sensitivities.map((one) => sensitivityOf(one, model, file))
  const tensors = await readTensors(directory, record.files, task.signal)
  const stored = { tensors, curves, inputMoments: options.inputMoments, memory }
  const { figures, handle } = await model.readCalibration(stored, task)
  return {
    handle,
    figures: { ...figures, ...recorded, seconds },
    options: { ...options, samplesAsked: options.samplesAsked ?? options.samples },
    hashes: { model: record.model.sha256, calibration: calibration.sha256 },
    made: { windows, heldOut, sources: calibration.sources, seconds: windowSeconds },
    sensitivities,
  }
}

function checkModelOf(
  { model: { sha256, config, dtype } }: CalibrationRecord,
  model: LoadedModel,
  directory: string,
  modelHash: string,
): void {
  const refuse = (what: string) => new FlrcError('E_USAGE', `${directory}: ${what}`, { file: directory })
  if (sha256 !== modelHash) {
    throw refuse(
      `calibrated on a model whose weights have the SHA-256 ${sha256}, and those of ${model.source.path} have ` +
        `${modelHash}; give the model it is of, or calibrate this one`,
    )
  }
  if (config !== configHash(model)) {
    throw refuse(
      `calibrated on ${model.source.path} under another configuration; give the model it is of, or calibrate this one`,
    )
  }
  if (dtype !== model.dtype) {
    throw refuse(
      `calibrated on the model held in ${dtype}, and ${model.source.path} is held in ${model.dtype}; ` +
        `load it in ${dtype}, or calibrate it in ${model.dtype} (--dtype ${model.dtype})`,
    )
  }
}

/** What decides beside the weights what a model computes. */
function configHash({ config }: LoadedModel): string {
  return sha256OfText(JSON.stringify(config))
}

async function readTensors(
  directory: string,
  files: CalibrationRecord['files'],
  signal: AbortSignal | undefined,
): Promise<TensorSource[]> {
  const tensors: TensorSource[] = []
  for (const [name, expected] of Object.entries(files)) {
    const file = join(directory, name)
    const stored = await readSafetensors(file)
    const hash = await sha256OfFile(file, signal)
    if (hash !== expected) {
      throw new FlrcError(
        'E_MODEL_FORMAT',
        `${file}: damaged, or of another calibration: its SHA-256 is ${hash}, and ${calibrationRecord} has ` +
          `${expected}; copy the folder again, or calibrate again`,
        { file },
      )
    }
    for (const tensor of stored.tensors.values()) tensors.push(tensorSource(tensor, ['F32', 'F64']))
  }
  return tensors
}

function sensitivityOf(
  stored: CalibrationRecord['sensitivities'][number],
  model: LoadedModel,
  file: string,
): Sensitivity {
  const { ratios, projections } = stored
  const fits =
    ratios.length === sensitivityRatios.length &&
    ratios.every((ratio, index) => ratio === sensitivityRatios[index]) &&
    projections.length === model.projections.length &&
    projections.every(
      ({ name, losses }, index) => name === model.projections[index]?.name && losses.length === ratios.length,
    )
  if (!fits) {
    throw new FlrcError(
      'E_MODEL_FORMAT',
      `${file}: a sensitivity search is not of the model's projections and the ratios that are searched; calibrate again`,
      { file },
    )
  }
  return {
    ...stored,
    projections: projections.map((one) => ({ ...one, losses: Float64Array.from(one.losses) })),
  }
}
