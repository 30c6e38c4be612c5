import type { Model } from 'flrc'
import { FlrcError } from '#lib/errors.js'
import type { Bench } from '../quality/make.js'
import { isLowRank } from '../quality/names.js'
import type { RowStore } from '../quality/store.js'
import { trivialSummary } from '../quality/summaries.js'
import { drafts, Fitting, scheduleNamed } from './fit.js'
import {
  type Asked,
  askedOf,
  type MeasureOptions,
  type Runner,
  type Scored,
  scoresOf,
  speedsOf,
  textsOf,
  writtenScores,
} from './measure.js'
import type { ModelFolder } from './models.js'
import type { OutputFolder } from './outputs.js'
import type { Row, RowPlan } from './rows.js'
import { joined } from './scores.js'

/** A row that could not be made, and why; the others are made all the same. */
export interface Failure {
  key: string
  reason: string
}

export interface Run {
  bench: Bench
  models: ModelFolder
  outputs: OutputFolder
  measure: MeasureOptions
  store: RowStore<Row>
  report: (line: string) => void
}

/** Samples that are measured before rows are stored again: what an interruption costs at most. */
const together = 64

/**
 * Makes what the store lacks: the models first, then the samples of rows, those of one model together and stored as
 * they come, then the speeds of all in one interleaved run. Throws what is no FlrcError, and E_ABORTED; other failures
 * are returned.
 */
export async function makeRows(plans: readonly RowPlan[], run: Run): Promise<Failure[]> {
  return new Rows(run).make(plans)
}

class Rows {
  readonly #run: Run
  readonly #failures: Failure[] = []

  constructor(run: Run) {
    this.#run = run
  }

  async make(plans: readonly RowPlan[]): Promise<Failure[]> {
    const { models, bench, store, measure, report } = this.#run
    const reference = await models.load({ model: { kind: 'dense', dtype: bench.dtype } })
    try {
      const asked = await askedOf(reference, measure, bench.signal)
      const groups = byModel(plans.filter(({ key }) => this.#done(key) < asked.length))
      const lacking = [...groups.flat(), ...plans.filter((plan) => this.#lacksSpeed(plan))]
      await models.make(
        lacking
          .flatMap(({ model, above }) => (above === undefined ? [model] : [model, above]))
          .filter(isLowRank),
        report,
      )
      for (const group of groups) {
        await this.#attempt(
          group.map(({ key }) => key),
          () => this.#quality(group, asked, reference),
        )
      }
    } finally {
      reference.dispose()
    }
    const timed = plans.filter(({ key, timed: is }) => is && store.get(key) !== undefined)
    if (timed.some((plan) => this.#lacksSpeed(plan))) {
      report(`speed of ${timed.length} rows`)
      await this.#attempt(['speed'], () => this.#speeds(timed))
    }
    return this.#failures
  }

  async #attempt(keys: readonly string[], work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (error) {
      if (!(error instanceof FlrcError) || error.code === 'E_ABORTED') throw error
      const reason = `${error.code}: ${error.message}`
      this.#failures.push(...keys.map((key) => ({ key, reason })))
      this.#run.report(`not made: ${keys.join(', ')}: ${reason}`)
      return false
    }
  }

  /** Samples of a row that were measured. */
  #done(key: string): number {
    return this.#run.store.get(key)?.scores?.ids.length ?? 0
  }

  /** Those of them that have agreement and KL. */
  #along(key: string): number {
    return this.#run.store.get(key)?.scores?.along?.tokens.length ?? 0
  }

  #lacksSpeed({ key, timed }: RowPlan): boolean {
    const { store, measure } = this.#run
    return timed && measure.speed.rounds > 0 && store.get(key)?.speeds === undefined
  }

  /** All samples of rows that share a model. */
  async #quality(group: readonly RowPlan[], asked: readonly Asked[], reference: Model): Promise<void> {
    const { models, bench } = this.#run
    const [first] = group
    if (first === undefined) return
    if (first.model.kind === 'trivial') {
      for (const plan of group) await this.#trivial(plan, asked, reference)
      return
    }
    const model = isReference(first, bench) ? reference : await models.load(first)
    try {
      const rows = await this.#fitted(group, model, reference)
      await this.#samples(rows, asked, model, reference)
    } finally {
      if (model !== reference) model.dispose()
    }
  }

  /** The rows whose schedule is known, each stored with it. */
  async #fitted(group: readonly RowPlan[], model: Model, reference: Model): Promise<Row[]> {
    const { store, measure, bench, report } = this.#run
    const fitting = new Fitting(model, reference, { ...measure, signal: bench.signal })
    const rows: Row[] = []
    for (const plan of group) {
      const { key } = plan
      const stored = store.get(key)
      if (stored !== undefined) {
        rows.push(stored)
        continue
      }
      const { fall: _fall, timed: _timed, ...named } = plan
      await this.#attempt([key], async () => {
        const schedule = await fitting.scheduleOf(plan)
        const { levels, storedBytes } = model
        const [{ budget: keep = 1, bytesPerToken: prefillBytes = 0 } = {}] = levels
        const row: Row = { ...named, schedule, keep, storedBytes, prefillBytes }
        await store.put(row)
        rows.push(row)
        if (schedule !== 'full') report(`${key}: ${schedule}`)
      })
    }
    return rows
  }

  /** Rows go together from where the one of them stands that has the fewest samples. */
  async #samples(rows: readonly Row[], asked: readonly Asked[], model: Model, reference: Model): Promise<void> {
    const { measure, bench, store, report } = this.#run
    const ends = rows.map(({ key }) => key)
    for (;;) {
      const from = Math.min(...ends.map((key) => this.#done(key)))
      if (!(from < asked.length)) return
      const current = rows.filter(({ key }) => this.#done(key) === from)
      const others = ends.map((key) => this.#done(key)).filter((done) => done > from)
      // Only ever behind what a row has, so that its first samples are those with figures along.
      const along = from < measure.alongLimit && current.every(({ key }) => this.#along(key) === from)
      const end = Math.min(from + together, ...others, ...(along ? [measure.alongLimit] : []))
      const part = asked.slice(from, end)
      const [began, before] = [performance.now(), process.cpuUsage()]
      // Level 0 with drafts writes what level 0 does, and schedules may coincide.
      const named = current.map(({ schedule }) => (schedule.startsWith('speculate') ? 'full' : schedule))
      const distinct = [...new Set(named)]
      const expected = model === reference ? undefined : await this.#denseTexts(part, reference)
      const scored = await scoresOf({ model, reference, expected }, part, distinct.map(scheduleNamed), {
        ...{ along, maxTokens: measure.maxTokens, signal: bench.signal },
      })
      for (const [index, { key }] of current.entries()) {
        const found = scored[distinct.indexOf(named[index] ?? '')]
        const row = store.get(key)
        if (found === undefined || row === undefined) continue
        await this.#put(row, found, from)
      }
      const seconds = (performance.now() - began) / 1000
      const { user, system } = process.cpuUsage(before)
      const spent = `${seconds.toFixed(1)} s (${((user + system) / 1e6).toFixed(1)} s of CPU)`
      const names = current.map(({ name }) => name).join('; ')
      report(`${from + part.length} of ${asked.length} in ${spent}: ${names}`)
    }
  }

  /** Texts first, so that a stored sample always has its text. */
  async #put(row: Row, { scores, texts }: Scored, from: number): Promise<void> {
    const { outputs, store } = this.#run
    if (texts.length > 0) {
      const before = (await outputs.read(row)).slice(0, from)
      await outputs.write(row, [...before, ...scores.ids.map((id, at) => ({ id, text: texts[at] ?? '' }))])
    }
    await store.put({ ...row, scores: joined(row.scores, scores) })
  }

  async #trivial(plan: RowPlan, asked: readonly Asked[], reference: Model): Promise<void> {
    const { model: spec, key } = plan
    if (spec.kind !== 'trivial') return
    const { fall: _fall, timed: _timed, ...named } = plan
    const expected = await this.#denseTexts(asked, reference)
    const texts = asked.map(({ dialogue }) => trivialSummary(spec.summary, dialogue))
    const scores = { ids: asked.map(({ id }) => id), written: writtenScores(asked, texts, expected) }
    const none = { schedule: '', keep: 0, storedBytes: 0, prefillBytes: 0 }
    await this.#run.store.put({ ...named, key, ...none, scores })
  }

  /** What the dense model writes of these samples; written now, where its own row was made without this folder. */
  async #denseTexts(
    part: readonly Asked[],
    reference: Model,
  ): Promise<ReadonlyMap<string, string> | undefined> {
    if (part.every(({ summaries }) => summaries.length === 0)) return undefined
    const { outputs, bench, measure } = this.#run
    const own = { key: `dense/${bench.dtype}`, name: `dense ${bench.dtype}` }
    const lines = await outputs.read(own)
    const texts = new Map(lines.map(({ id, text }) => [id, text]))
    const missing = part.filter(({ id }) => !texts.has(id))
    if (missing.length === 0) return texts
    const options = { maxTokens: measure.maxTokens, signal: bench.signal }
    const written = await textsOf(reference, missing, options)
    for (const [at, { id }] of missing.entries()) texts.set(id, written[at] ?? '')
    const all = Array.from(texts, ([id, text]) => ({ id, text }))
    await outputs.write(own, all)
    return texts
  }

  /** One interleaved run over all of them; a model that several rows share is loaded once. */
  async #speeds(timed: readonly RowPlan[]): Promise<void> {
    const { bench, models, measure, store } = this.#run
    const loaded = new Map<string, Model>()
    try {
      const runners: Runner[] = []
      for (const plan of timed) {
        const key = modelKey(plan)
        const model = loaded.get(key) ?? (await models.load(plan))
        loaded.set(key, model)
        const { schedule: text = 'full' } = store.get(plan.key) ?? {}
        const budget = model.levels.at(-1)?.budget ?? 1
        const speculate = plan.fall.kind === 'speculative' ? { tokens: drafts, budget } : undefined
        runners.push({ name: plan.name, model, text, schedule: scheduleNamed(text), speculate })
      }
      const speeds = await speedsOf(runners, measure, bench.signal)
      for (const [index, { key }] of timed.entries()) {
        const row = store.get(key)
        if (row !== undefined) await store.put({ ...row, speeds: speeds[index] })
      }
    } finally {
      for (const model of loaded.values()) model.dispose()
    }
  }
}

function isReference({ model }: RowPlan, { dtype }: Bench): boolean {
  return model.kind === 'dense' && model.dtype === dtype
}

const modelKey = ({ model, from, above }: RowPlan) =>
  model.kind === 'trivial' ? model.kind : JSON.stringify([model, from, above])

function byModel(plans: readonly RowPlan[]): RowPlan[][] {
  const groups = new Map<string, RowPlan[]>()
  for (const plan of plans) groups.set(modelKey(plan), [...(groups.get(modelKey(plan)) ?? []), plan])
  return [...groups.values()]
}
