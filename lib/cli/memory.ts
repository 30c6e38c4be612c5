import { usualWhitening } from '../calibrate.js'
import { windowLength } from '../calibration/windows.js'
import { denseBlockParameters } from '../format/projections.js'
import type { StorageDtype } from '../format/types.js'
import { checkMemory, memoryNeeds, recoveryBytes, weightBytes } from '../memory.js'
import { openModel } from '../open-model.js'
import type { CalibrationFlags } from './calibration.js'
import { formatBytes, note } from './output.js'
import { step } from './steps.js'

/** What a command is about to hold. */
export interface Held {
  /** Type that the weights are held in, and how many times they are. */
  dtype: StorageDtype
  copies: number
  /** Whether the factors are trained. */
  trains?: boolean
  /** Of a calibration that is to be made; none where one is at hand. */
  calibrates?: CalibrationFlags & { inputMoments: boolean; threads: number; ranksChannels?: boolean }
}

/** What it will take, said before it is taken; E_OUT_OF_MEMORY where that is not there. */
export async function tellMemory(path: string, held: Held, signal: AbortSignal): Promise<void> {
  const { dtype, copies, trains = false, calibrates } = held
  const source = await step('read', (onProgress) => openModel(path, { signal, onProgress }))
  const training = trains ? recoveryBytes * denseBlockParameters(source.config) : 0
  const weights = copies * weightBytes(source, dtype) + training
  const { whitening = usualWhitening, inputMoments = false, samples = 0, threads = 0 } = calibrates ?? {}
  const seqLen = windowLength(source, calibrates?.seqLen)
  const { ranksChannels } = calibrates ?? {}
  const asked = memoryNeeds(source.config, {
    ...{ whitening, inputMoments, samples, threads, seqLen, weights, ranksChannels },
  })
  const needs = calibrates ? asked : { ...asked, least: 0, everything: 0 }
  checkMemory(needs, calibrates?.memory)
  const { least, everything, available } = needs
  const calibrating = calibrates ? `${formatBytes(least)} to ${formatBytes(everything)} to calibrate; ` : ''
  const short = calibrates?.memory !== undefined && calibrates.memory < least
  note(
    `memory: ${formatBytes(weights)} for weights${trains ? ' and their training' : ''}${calibrates ? ', ' : '; '}` +
      `${calibrating}${formatBytes(available)} are free` +
      (short ? `; --memory allows less than the least, which is taken` : ''),
  )
}
