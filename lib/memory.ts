import { freemem, totalmem } from 'node:os'
import { callNative } from './binding.js'
import type { Whitening } from './calibrate.js'
import { FlrcError } from './errors.js'
import type { ModelConfig, ModelSource, StorageDtype } from './format/types.js'
import { nativeConfig } from './model.js'

/** What compressing will hold, and what there is, in bytes. */
export interface MemoryNeeds {
  /** Weights that are still to be loaded or cut. */
  weights: number
  /** To calibrate, one thing after another. */
  least: number
  /** To calibrate with all threads and nothing on the disk; more is of no use. */
  everything: number
  /** What this process may still take. */
  available: number
}

export interface MemoryQuestion {
  whitening: Whitening
  /** Whether the inputs' moments are kept, to round against. */
  inputMoments: boolean
  samples: number
  seqLen: number
  threads: number
  weights: number
  /** Whether channels of the MLPs are ranked, too. */
  ranksChannels?: boolean
}

/** Bytes of a weight, with the scales of its group where there are any. */
const bytesOf: Record<StorageDtype, number> = { f32: 4, bf16: 2, int8: 1.07, int4: 0.63 }

/** Bytes that a model's weights will take in memory. */
export function weightBytes(source: ModelSource, dtype: StorageDtype): number {
  let elements = 0
  for (const { shape } of source.tensors.values())
    elements += shape.reduce((product, extent) => product * extent, 1)
  return Math.ceil(elements * bytesOf[dtype])
}

/** Bytes of a recovery for each block parameter: the parameter, its gradient and Adam's two moments as f32. */
export const recoveryBytes = 16

/** Free memory in bytes, within a container's limit. */
export function availableMemory(): number {
  // What counts as free on macOS leaves out what the system would give up at once.
  if (process.platform === 'darwin') return totalmem()
  return process.availableMemory?.() ?? freemem()
}

export function memoryNeeds(
  config: ModelConfig,
  { whitening, inputMoments, samples, seqLen, threads, weights, ranksChannels = false }: MemoryQuestion,
): MemoryNeeds {
  // Shrunk moments take a little more; two-sided ones are by default.
  const shrinks = whitening === 'two-sided'
  const options = { whitening, inputMoments, shrinks, sequences: samples, longest: seqLen, threads }
  const native = nativeConfig(config)
  const { least, everything } = callNative((addon) => addon.calibrationMemory(native, options))
  const ranking = ranksChannels
    ? callNative((addon) => addon.channelMemory(native, options))
    : { least: 0, everything: 0 }
  return {
    least: Math.max(least, ranking.least),
    everything: Math.max(everything, ranking.everything),
    ...{ weights, available: availableMemory() },
  }
}

/**
 * Refuses before the work what would end it.
 *
 * @param memory what calibrating was told it may take, where it was
 * @throws E_OUT_OF_MEMORY with the remedy
 */
export function checkMemory({ weights, least, everything, available }: MemoryNeeds, memory?: number): void {
  const held = memory === undefined ? least : Math.max(least, Math.min(memory, everything))
  if (weights + held <= available) return
  const needs = `compressing takes ${gigabytes(weights)} for weights and ${gigabytes(held)} to calibrate`
  const room = available - weights
  const remedy =
    least <= room
      ? `allow it less, with a memory (--memory) of at most ${gigabytes(room)}`
      : 'take a smaller model or shorter windows (--seq-len), or close other programs'
  throw new FlrcError('E_OUT_OF_MEMORY', `${needs}, but only ${gigabytes(available)} are free; ${remedy}`)
}

/** Two decimals, rounded down, so that what is suggested is there. */
export function gigabytes(bytes: number): string {
  const value = Math.max(0, bytes) / 1e9
  return `${value < 0.1 ? value.toPrecision(2) : (Math.floor(value * 100) / 100).toFixed(2)} GB`
}
