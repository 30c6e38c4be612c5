/** Makes the models of rows: dense ones by loading, rounded ones through a directory, low-rank ones by cutting. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import {
  type Calibration,
  type CalibrationText,
  calibrate,
  compress,
  exportModel,
  Model,
  sensitivitySearch,
  type TaskOptions,
} from 'flrc'
import { type Prepared, prepare } from '#lib/compress/prepare.js'
import { type Inputs, withoutUnknowns } from './inputs.js'
import { countedBytes, isEmbedding, roundDirectory } from './rounded.js'
import type { CalibrationSource, CalibrationSpec, LowRankSpec, ModelSpec, Row } from './rows.js'

export interface Made {
  model: Model
  bytes: Pick<Row, 'storedBytes' | 'equalBytes'>
}

/** What is always the same in one run. */
export interface Bench {
  source: string
  dtype: 'f32' | 'bf16'
  inputs: Inputs
  numbers: { samples: number; seqLen: number; windows: number; searchWindows: number }
  limits: { choiceLimit?: number; summaryLimit?: number }
  signal: AbortSignal
}

/** A model that needs no calibration. */
export type DenseSpec = Exclude<ModelSpec, { kind: 'low-rank' | 'trivial' }>

export async function makeDense(spec: DenseSpec, bench: Bench): Promise<Made> {
  const { source, signal } = bench
  switch (spec.kind) {
    case 'dense': {
      const model = await Model.load(source, { dtype: spec.dtype, signal })
      return { model, bytes: bytesOf(model) }
    }
    case 'source': {
      const model = await Model.load(source, { dtype: bench.dtype, signal })
      return { model, bytes: sourceBytes(model) }
    }
    case 'rounded':
      return makeRounded(spec.blockBits, bench)
  }
}

async function makeRounded(blockBits: 2 | 3 | undefined, { source, dtype, signal }: Bench): Promise<Made> {
  const folder = await mkdtemp(path.join(tmpdir(), 'flrc-quality-'))
  try {
    const directory = path.join(folder, 'model')
    const dense = await Model.load(source, { dtype: 'f32', signal })
    try {
      await exportModel(dense, directory, { signal })
    } finally {
      dense.dispose()
    }
    await roundDirectory(directory, blockBits)
    const model = await Model.load(directory, { dtype: blockBits === undefined ? dtype : 'f32', signal })
    const counted = countedBytes(model.tensorEntries(false), model.config, blockBits)
    return { model, bytes: { storedBytes: counted, equalBytes: counted } }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function bytesOf(model: Model): Made['bytes'] {
  return {
    storedBytes: model.storedBytes,
    equalBytes: countedBytes(model.tensorEntries(false), model.config),
  }
}

/** Of a quantised file: its own bytes, and the same with embedding and head as int8. */
function sourceBytes(model: Model): Made['bytes'] {
  const tensors = Array.from(model.source.tensors.values())
  const bytes = (all: typeof tensors) => all.reduce((sum, { byteLength }) => sum + byteLength, 0)
  const tables = countedBytes([], model.config)
  const blocks = tensors.filter(({ name }) => !isEmbedding(name))
  return { storedBytes: bytes(tensors), equalBytes: bytes(blocks) + tables }
}

/** Of the calibrated model as it is: `drops` is not looked at. */
export async function makeLowRank(
  { method, storage, dtype, keep, levels }: LowRankSpec,
  calibration: Calibration,
  { signal }: TaskOptions,
): Promise<Made> {
  const options = { method, storage, dtype, keep, levels, calibration, signal }
  const model = await compress(calibration.model, options)
  return { model, bytes: bytesOf(model) }
}

/**
 * Makes low-rank models from one calibration. The model that channels were dropped from is kept, calibrated, for rows
 * that differ from the last in the type of their factors alone: it takes longer than all else of a row.
 */
export class Cutting {
  readonly #calibration: Calibration
  readonly #inputMoments: boolean
  readonly #bench: Bench
  #narrowed: (Prepared & { key: string }) | undefined

  /** For the wanted rows, of which some may be of int8 and int4; the calibration is disposed of with it. */
  constructor(calibration: Calibration, wanted: readonly LowRankSpec[], bench: Bench) {
    this.#calibration = calibration
    this.#inputMoments = roundsFactors(wanted)
    this.#bench = bench
  }

  async make(spec: LowRankSpec): Promise<Made> {
    const calibration = spec.drops ? await this.#withoutChannels(spec) : this.#calibration
    return makeLowRank(spec, calibration, this.#bench)
  }

  dispose(): void {
    this.#narrowed?.release()
    this.#calibration.dispose()
  }

  async #withoutChannels({ method, storage, keep, levels }: LowRankSpec): Promise<Calibration> {
    const key = [method, storage, keep, levels].join()
    if (this.#narrowed?.key !== key) {
      this.#narrowed?.release()
      this.#narrowed = undefined
      const { signal } = this.#bench
      const { labels, seed, whitening, shrinkage } = this.#calibration.options
      const inputMoments = this.#inputMoments
      const again = { labels, seed, whitening, shrinkage, inputMoments, curves: true, signal }
      const allocated = { method, storage, keep, levels, dropChannels: 'auto' as const, signal }
      const prepared = await prepare(this.#calibration.model, this.#calibration, again, allocated)
      this.#narrowed = { ...prepared, key }
    }
    return this.#narrowed.calibration
  }
}

const roundsFactors = (wanted: readonly LowRankSpec[]) =>
  wanted.some(({ dtype }) => dtype === 'int8' || dtype === 'int4')

function dialoguesOf(inputs: Inputs) {
  if (inputs.dialogues === undefined) throw new Error('a row of dialogues was planned without dialogues')
  return inputs.dialogues
}

const sources: Record<CalibrationSource, (inputs: Inputs) => CalibrationText[]> = {
  text: ({ calibration }) => [calibration],
  'text without <unk>': ({ calibration }) => [withoutUnknowns(calibration)],
  'half dialogues': (inputs) => [
    { text: inputs.calibration, weight: 1 },
    { dialogues: dialoguesOf(inputs), weight: 1 },
  ],
  dialogues: (inputs) => [{ dialogues: dialoguesOf(inputs) }],
  self: () => [{ self: true }],
  'self and text': ({ calibration }) => [
    { self: true, weight: 1 },
    { text: calibration, weight: 1 },
  ],
  'dialogues, text and self': (inputs) => [
    { dialogues: dialoguesOf(inputs), weight: 1 },
    { text: inputs.calibration, weight: 1 },
    { self: true, weight: 1 },
  ],
}

/** With what cutting the wanted models needs. */
export function makeCalibration(
  dense: Model,
  spec: CalibrationSpec,
  wanted: readonly LowRankSpec[],
  { inputs, numbers, signal }: Bench,
): Promise<Calibration> {
  const { samples, seqLen } = numbers
  const { source, whitening, labels, shrunk } = spec
  const calibration = sources[source](inputs)
  const curves = wanted.some(({ method }) => method === 'curve')
  const inputMoments = roundsFactors(wanted)
  return calibrate(dense, {
    ...{ calibration, samples, seqLen, whitening, labels, curves, inputMoments },
    ...(shrunk ? {} : { shrinkage: { inputs: 0, gradients: 0 } }),
    signal,
  })
}

/** ASVD's search on the calibration's first windows; the calibration keeps what it finds. Resolves to its seconds. */
export async function search(
  calibration: Calibration,
  storage: LowRankSpec['storage'],
  { numbers, signal }: Bench,
): Promise<number> {
  const began = performance.now()
  await sensitivitySearch(calibration, { storage, windows: numbers.searchWindows, signal })
  return (performance.now() - began) / 1000
}
