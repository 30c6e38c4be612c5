import { type Calibration, FlrcError, Model } from 'flrc'
import { type Bench, Cutting, type Made, makeCalibration, makeDense, search } from './make.js'
import { measure } from './measure.js'
import {
  type CalibrationSpec,
  calibrationKey,
  type LowRankSpec,
  type Measure,
  missingMeasures,
  type Row,
  type RowSpec,
  rowKey,
} from './rows.js'
import type { RowStore } from './store.js'
import { trivialScores } from './summaries.js'

/** A row that could not be made, and why; the others are made all the same. */
export interface Failure {
  key: string
  reason: string
}

interface Wanted<T = RowSpec['model']> {
  key: string
  model: T
  measures: Measure[]
}

/**
 * Makes the rows that the store lacks, those of one calibration after another, so that at most one calibration's
 * factors are in memory. Throws what is no FlrcError, and E_ABORTED; other failures are the row's, and returned.
 */
export async function makeRows(
  specs: readonly RowSpec[],
  bench: Bench,
  store: RowStore,
  report: (line: string) => void,
): Promise<Failure[]> {
  const run = new Run(bench, store, report)
  const wanted = specs
    .map(({ model, ...spec }) => ({ key: rowKey(model), model, measures: [...spec.measures] }))
    .map((row) => ({ ...row, measures: missingMeasures(row, store.get(row.key)) }))
    .filter(({ measures }) => measures.length > 0)
  for (const row of wanted) await run.denseRow(row)
  const groups = byCalibration(wanted)
  if (groups.length === 0) return run.failures
  const dense = await Model.load(bench.source, { dtype: bench.dtype, signal: bench.signal })
  try {
    for (const { calibration, rows } of groups) await run.calibratedRows(dense, calibration, rows)
  } finally {
    dense.dispose()
  }
  return run.failures
}

interface Group {
  calibration: CalibrationSpec
  rows: Wanted<LowRankSpec>[]
}

function byCalibration(wanted: readonly Wanted[]): Group[] {
  const groups = new Map<string, Group>()
  for (const { model, ...row } of wanted) {
    if (model.kind !== 'low-rank') continue
    const key = calibrationKey(model.calibration)
    const group = groups.get(key) ?? { calibration: model.calibration, rows: [] }
    group.rows.push({ ...row, model })
    groups.set(key, group)
  }
  return [...groups.values()]
}

class Run {
  readonly failures: Failure[] = []
  readonly #bench: Bench
  readonly #store: RowStore
  readonly #report: (line: string) => void

  constructor(bench: Bench, store: RowStore, report: (line: string) => void) {
    this.#bench = bench
    this.#store = store
    this.#report = report
  }

  /** A row that needs no calibration. */
  async denseRow({ key, model, measures }: Wanted): Promise<void> {
    if (model.kind === 'low-rank') return
    if (model.kind === 'trivial') {
      await this.#attempt([key], async () => {
        const summaries = trivialScores(model.summary, this.#bench)
        await this.#store.put({ key, model, keep: 0, storedBytes: 0, equalBytes: 0, summaries })
      })
      return
    }
    await this.#attempt([key], async () => {
      const made = await makeDense(model, this.#bench)
      await this.#fill({ key, model, measures }, made)
    })
  }

  async calibratedRows(dense: Model, spec: CalibrationSpec, rows: Group['rows']): Promise<void> {
    const began = performance.now()
    const models = rows.map(({ model }) => model)
    const calibration = await this.#attempt(
      rows.map(({ key }) => key),
      () => makeCalibration(dense, spec, models, this.#bench),
    )
    if (calibration === undefined) return
    const calibrate = secondsSince(began)
    this.#report(`calibrated ${calibrationKey(spec)} in ${calibrate.toFixed(1)} s`)
    const cutting = new Cutting(calibration, models, this.#bench)
    try {
      // A search takes longer than its storage's rows together: they are kept before the next begins.
      const searches = new Map<string, number | undefined>()
      for (const row of rows) {
        const { method, storage } = row.model
        if (method === 'asvd' && !searches.has(storage)) {
          searches.set(storage, await this.#search(calibration, storage, rows))
        }
        const search = method === 'asvd' ? searches.get(storage) : undefined
        if (method === 'asvd' && search === undefined) continue
        await this.#lowRankRow(row, cutting, { calibrate, ...(search === undefined ? {} : { search }) })
      }
    } finally {
      cutting.dispose()
    }
  }

  /** Undefined where the search failed, and with it the rows that need it. */
  #search(
    calibration: Calibration,
    storage: LowRankSpec['storage'],
    rows: Group['rows'],
  ): Promise<number | undefined> {
    const needing = rows.filter(({ model }) => model.method === 'asvd' && model.storage === storage)
    return this.#attempt(
      needing.map(({ key }) => key),
      () => search(calibration, storage, this.#bench),
    )
  }

  async #lowRankRow(
    row: Wanted<LowRankSpec>,
    cutting: Cutting,
    before: { calibrate: number; search?: number },
  ): Promise<void> {
    await this.#attempt([row.key], async () => {
      const began = performance.now()
      const made = await cutting.make(row.model)
      await this.#fill(row, made, { ...before, cut: secondsSince(began) })
    })
  }

  /** Measures a model into its row, and disposes of it. */
  async #fill({ key, model, measures }: Wanted, made: Made, seconds?: Row['seconds']): Promise<void> {
    const keep = made.model.levels[0]?.budget ?? 1
    let row: Row = { ...this.#store.get(key), key, model, keep, ...made.bytes, ...(seconds ? { seconds } : {}) }
    try {
      for (const what of measures) {
        row = { ...row, ...(await measure(made.model, what, this.#bench)) }
        await this.#store.put(row)
      }
    } finally {
      made.model.dispose()
    }
    this.#report(`${key}: keep ${keep.toFixed(4)}, perplexity ${row.perplexity?.toFixed(2) ?? 'not measured'}`)
  }

  async #attempt<T>(keys: readonly string[], work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof FlrcError) || error.code === 'E_ABORTED') throw error
      const reason = `${error.code}: ${error.message}`
      for (const key of keys) this.failures.push({ key, reason })
      this.#report(`not made: ${keys.join(', ')}: ${reason}`)
      return undefined
    }
  }
}

function secondsSince(began: number): number {
  return (performance.now() - began) / 1000
}
