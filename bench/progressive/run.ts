import type { Model } from 'flrc'
import { FlrcError } from '#lib/errors.js'
import { parseSchedule } from '#lib/schedule.js'
import type { Bench } from '../quality/make.js'
import type { RowStore } from '../quality/store.js'
import { trivialScores } from '../quality/summaries.js'
import { type Falling, fallOf, type MeasureOptions, qualityOf, type Runner, speedsOf } from './measure.js'
import type { ModelFolder } from './models.js'
import type { Row, RowPlan } from './rows.js'

/** A row that could not be made, and why; the others are made all the same. */
export interface Failure {
  key: string
  reason: string
}

export interface Run {
  bench: Bench
  models: ModelFolder
  measure: MeasureOptions
  store: RowStore<Row>
  report: (line: string) => void
}

/**
 * Makes the rows that the store lacks: their models first, then quality row by row, then the speeds of all in one
 * interleaved run. Throws what is no FlrcError, and E_ABORTED; other failures are returned.
 */
export async function makeRows(plans: readonly RowPlan[], run: Run): Promise<Failure[]> {
  const { models, store, measure, report } = run
  const failures: Failure[] = []
  const attempt = async (key: string, work: () => Promise<void>) => {
    try {
      await work()
    } catch (error) {
      if (!(error instanceof FlrcError) || error.code === 'E_ABORTED') throw error
      failures.push({ key, reason: `${error.code}: ${error.message}` })
      report(`not made: ${key}: ${error.code}: ${error.message}`)
    }
  }
  const wanted = plans.filter((plan) => lacksQuality(plan, store) || lacksSpeed(plan, store, measure))
  await models.make(
    wanted.flatMap(({ model }) => (model.kind === 'low-rank' ? [model] : [])),
    report,
  )
  for (const plan of plans.filter((one) => lacksQuality(one, store))) {
    await attempt(plan.key, () => makeQuality(plan, run))
  }
  const timed = plans.filter(({ key, timed: is }) => is && store.get(key) !== undefined)
  if (timed.some((plan) => lacksSpeed(plan, store, measure))) {
    report(`speed of ${timed.length} rows`)
    await attempt('speed', () => makeSpeeds(timed, run))
  }
  return failures
}

function lacksQuality({ key, model }: RowPlan, store: RowStore<Row>): boolean {
  const row = store.get(key)
  return model.kind === 'trivial' ? row === undefined : row?.quality === undefined
}

function lacksSpeed({ key, timed }: RowPlan, store: RowStore<Row>, { speed }: MeasureOptions): boolean {
  return timed && speed.rounds > 0 && store.get(key)?.speeds === undefined
}

async function makeQuality(plan: RowPlan, { bench, models, measure, store, report }: Run): Promise<void> {
  const { fall: _fall, timed: _timed, ...named } = plan
  if (plan.model.kind === 'trivial') {
    const summaries = trivialScores(plan.model.summary, bench)
    await store.put({ ...named, schedule: '', keep: 0, storedBytes: 0, summaries })
    return
  }
  const model = await models.load(plan)
  try {
    const { text, schedule } = await fallOf(plan, model, measure, bench.signal)
    const reference = await models.load({ ...plan, model: { kind: 'dense', dtype: bench.dtype }, from: 0 })
    try {
      const found = await qualityOf(model, reference, schedule, bench, measure)
      const { storedBytes } = model
      const keep = model.levels[0]?.budget ?? 1
      await store.put({ ...named, schedule: text, keep, storedBytes, ...found })
    } finally {
      reference.dispose()
    }
    const { meanKl, meanActiveBudget } = store.get(plan.key)?.quality ?? {}
    report(`${plan.key}: ${text}, budget ${meanActiveBudget?.toFixed(4)}, KL ${meanKl?.toFixed(4)}`)
  } finally {
    model.dispose()
  }
}

/** One interleaved run over all of them; a model that several rows share is loaded once. */
async function makeSpeeds(timed: readonly RowPlan[], { bench, models, measure, store }: Run): Promise<void> {
  const loaded = new Map<string, Model>()
  try {
    const runners: Runner[] = []
    for (const plan of timed) {
      const key = JSON.stringify([plan.model, plan.from])
      const model = loaded.get(key) ?? (await models.load(plan))
      loaded.set(key, model)
      const { schedule = 'full' } = store.get(plan.key) ?? {}
      const falling =
        plan.fall.kind === 'speculative' ? await fallOf(plan, model, measure, bench.signal) : named(schedule)
      runners.push({ name: plan.name, model, ...falling })
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

/** A schedule as its row says it: choosing one anew would take long. */
function named(text: string): Falling {
  return text === 'full' ? { text } : { text, schedule: parseSchedule(text) }
}
