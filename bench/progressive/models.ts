/** The models of rows: cut once each, kept as checkpoints in a folder, and loaded from there. */
import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { Model } from 'flrc'
import { FlrcError } from '#lib/errors.js'
import type { TensorSource } from '#lib/format/types.js'
import { loadParts, type ModelParts } from '#lib/model.js'
import { openModelSource } from '#lib/model-source.js'
import { stacked } from '#lib/stacked.js'
import { type Bench, makeCalibration, makeLowRank } from '../quality/make.js'
import {
  type CalibrationSpec,
  calibrationKey,
  type LowRankSpec,
  type ModelSpec,
  rowKey,
} from '../quality/rows.js'
import type { Settings } from '../quality/store.js'
import type { RowPlan } from './rows.js'
import { type StoredSearch, searchOf } from './search.js'

export class ModelFolder {
  readonly #folder: string
  readonly #bench: Bench
  readonly #settings: Settings
  readonly #search: StoredSearch | undefined

  /** @param search what ASVD's rows are allocated by; they cannot be made without */
  constructor(folder: string, bench: Bench, settings: Settings, search?: StoredSearch) {
    this.#folder = folder
    this.#bench = bench
    this.#settings = settings
    this.#search = search
  }

  /** Cuts the low-rank models that the folder lacks, those of one calibration after another. */
  async make(specs: readonly LowRankSpec[], report: (line: string) => void): Promise<void> {
    const missing: LowRankSpec[] = []
    for (const spec of new Map(specs.map((one) => [rowKey(one), one])).values()) {
      if (!(await isThere(this.#path(spec)))) missing.push(spec)
    }
    if (missing.length === 0) return
    const { source, dtype, signal } = this.#bench
    const dense = await Model.load(source, { dtype, signal })
    try {
      const calibrations = new Map(missing.map((spec) => [calibrationKey(spec.calibration), spec.calibration]))
      for (const [key, calibration] of calibrations) {
        const own = missing.filter((spec) => calibrationKey(spec.calibration) === key)
        await this.#cut(dense, calibration, own, report)
      }
    } finally {
      dense.dispose()
    }
  }

  /** The model of a row, loaded anew. */
  async load({ model, from = 0, above }: Pick<RowPlan, 'model' | 'from' | 'above'>): Promise<Model> {
    const own = new Model(await this.#parts(model, from))
    if (above === undefined) return own
    return new Model(stacked(await this.#parts(above, 0), own))
  }

  async #parts(model: ModelSpec, from: number): Promise<ModelParts> {
    const { source: path, signal } = this.#bench
    if (model.kind === 'dense') {
      return loadParts(await openModelSource(path), { dtype: model.dtype, threads: 0, signal })
    }
    if (model.kind !== 'low-rank') throw new FlrcError('E_INTERNAL', `${model.kind} is no model to load`)
    const source = await openModelSource(this.#path(model))
    const flrc = source.flrc
    if (flrc === undefined) throw new FlrcError('E_INTERNAL', `${source.path} is no checkpoint`)
    const levels = flrc.levels.slice(from)
    const keep = from === 0 ? flrc.keep : (levels[0]?.budget ?? flrc.keep)
    const tensors = blocksUpTo(levels[0]?.ranks ?? {}, source.tensors)
    const options = { dtype: flrc.dtype, threads: 0, signal }
    return loadParts({ ...source, tensors, flrc: { ...flrc, levels, keep } }, options)
  }

  async #cut(
    dense: Model,
    spec: CalibrationSpec,
    wanted: readonly LowRankSpec[],
    report: (line: string) => void,
  ): Promise<void> {
    const calibration = await makeCalibration(dense, spec, wanted, this.#bench)
    try {
      report(`calibrated ${calibrationKey(spec)}`)
      if (this.#search !== undefined) {
        calibration.sensitivities.set(this.#search.storage, searchOf(this.#search, calibration))
      }
      for (const one of wanted) {
        const { model } = await makeLowRank(one, calibration, this.#bench)
        try {
          await model.save(this.#path(one), { signal: this.#bench.signal })
        } finally {
          model.dispose()
        }
        report(`cut ${rowKey(one)}`)
      }
    } finally {
      calibration.dispose()
    }
  }

  /** Named by what the model is made of, so that a folder serves other runs, and no wrong one. */
  #path(spec: LowRankSpec): string {
    const { modelSha256, calibrationSha256, dialoguesSha256, samples, seqLen } = this.#settings
    const made = [rowKey(spec), modelSha256, calibrationSha256, dialoguesSha256, samples, seqLen]
    if (spec.method === 'asvd') made.push(this.#settings.asvdSha256)
    const hash = createHash('sha256').update(made.join('\n')).digest('hex').slice(0, 12)
    return path.join(this.#folder, `${spec.method}-${(spec.levels ?? [spec.keep]).join('-')}-${hash}`)
  }
}

/** The tensors without the blocks that reach beyond a level's ranks: what is left is the smaller model. */
function blocksUpTo(
  ranks: Readonly<Record<string, number | 'dense'>>,
  tensors: ReadonlyMap<string, TensorSource>,
): Map<string, TensorSource> {
  const rowsOf = (name: string) => (tensors.get(name) ?? tensors.get(`${name}.q`))?.shape[0] ?? 0
  const within = (name: string) => {
    const [, projection = '', block] = /^(.+)\.[PCI]\.(\d+)/.exec(name) ?? []
    const rank = ranks[projection]
    if (block === undefined || rank === undefined || rank === 'dense') return true
    let sum = 0
    for (let index = 0; index <= Number(block); index++) sum += rowsOf(`${projection}.P.${index}`)
    return sum <= rank
  }
  return new Map(Array.from(tensors).filter(([name]) => within(name)))
}

async function isThere(directory: string): Promise<boolean> {
  try {
    return (await stat(directory)).isDirectory()
  } catch {
    return false
  }
}
