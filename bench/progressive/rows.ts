import type { StorageDtype } from 'flrc'
import type { DecodeRow } from '#lib/bench/decode.js'
import type { ScheduleShape } from '#lib/schedule.js'
import { type CalibrationSource, type LowRankSpec, type ModelSpec, rowKey } from '../quality/rows.js'
import type { RowStore } from '../quality/store.js'
import { families } from './schedules.js'
import type { Scores } from './scores.js'

/** How the level falls, or does not; made a schedule once the model's own budgets are known. */
export type Fall =
  | { kind: 'full' }
  /** The level of the wanted budget, after a prompt at level 0. */
  | { kind: 'constant' }
  | { kind: 'fitted'; family: ScheduleShape }
  /** A step the other way round, which rises. */
  | { kind: 'reversed' }
  | { kind: 'adaptive' }
  /** What `calibrateSchedule` chooses on the development set. */
  | { kind: 'calibrated' }
  /** Level 0 throughout, drafted at the last level: the quality of `full`, at a speed of its own. */
  | { kind: 'speculative' }

/** A row: a model, perhaps without its upper levels, under a schedule. */
export interface RowPlan {
  key: string
  name: string
  /** The mean active budget that the row is to have; absent for rows that stand beside all budgets. */
  budget?: number
  model: ModelSpec
  /** The level that is level 0 of the row: the checkpoint cut after the blocks below. */
  from?: number
  /** A model whose level comes first and which shares no weights with `model`. */
  above?: ModelSpec
  fall: Fall
  /** Whether speed is measured; rows that read the same bytes are equally fast, so one of them is enough. */
  timed: boolean
}

/** Figures of `flrc bench decode` for one length of prompt and of generation. */
export interface SpeedRow extends Omit<DecodeRow, 'name' | 'dtype' | 'schedule'> {
  promptTokens: number
  tokens: number
}

export interface Row extends Omit<RowPlan, 'fall' | 'timed'> {
  /** In the command line's words, where it has some. */
  schedule: string
  /** Stored block parameters / dense block parameters. */
  keep: number
  storedBytes: number
  /** Bytes of the weights that reading a prompt takes: level 0, with the output head. */
  prefillBytes: number
  /** Of the samples measured so far, from the first on. */
  scores?: Scores
  speeds?: SpeedRow[]
}

export interface RowOptions {
  budgets: readonly number[]
  /** How far above and below the budget the outer levels of a falling model lie. */
  span: number
  source: CalibrationSource
  dtype: 'f32' | 'bf16'
  summaries: boolean
  /** Whether there is a development set to choose a schedule on. */
  dev: boolean
  /** Whether there is a sensitivity search to allocate ASVD's rows by. */
  asvd: boolean
}

const hundredths = (value: number) => Math.round(value * 100) / 100

/** The largest budget of a level: above it hardly anything is cut. */
const highest = 0.97

/** Budgets of two or five levels at even steps around a mean, which is the middle one of five. */
export function levelsAround(budget: number, span: number, count: 2 | 5): number[] {
  const [high, low] = [Math.min(highest, hundredths(budget + span)), hundredths(budget - span)]
  if (count === 2) return [high, low]
  const between = (other: number) => Math.round(500 * (budget + other)) / 1000
  return [high, between(high), budget, between(low), low]
}

/** All rows, those of one budget together. */
export function planRows(options: RowOptions): RowPlan[] {
  const { budgets, summaries, dtype } = options
  const dense = [dtype, 'int8', 'int4'] as const
  const rounded = (['int8', 'int4'] as const).map((bits) => roundedRow(bits, options))
  const trivial = (['first words', 'constant'] as const).map((summary): RowPlan => {
    const model = { kind: 'trivial' as const, summary }
    return { key: rowKey(model), name: summary, model, fall: { kind: 'full' }, timed: false }
  })
  return [
    ...dense.map(denseRow),
    ...(summaries ? trivial : []),
    ...rounded,
    ...budgets.flatMap((budget) => budgetRows(budget, options)),
  ]
}

/** The rows whose names hold one of the texts, and the dense model, which others are compared with. */
export function chosenRows(
  plans: readonly RowPlan[],
  { rows, dtype }: { rows: readonly string[]; dtype: string },
): RowPlan[] {
  const isReference = ({ model }: RowPlan) => model.kind === 'dense' && model.dtype === dtype
  return plans.filter(
    (plan) => rows.length === 0 || isReference(plan) || rows.some((text) => plan.name.includes(text)),
  )
}

/** The plans of rows as they were stored, whatever was asked for then. */
export function storedPlans({ settings, rows }: Pick<RowStore<Row>, 'settings' | 'rows'>): RowPlan[] {
  const budgets = [...new Set(rows.flatMap(({ budget }) => budget ?? []))].sort((a, b) => b - a)
  const { span, calibratedOn, dtype } = settings
  const source = calibratedOn as CalibrationSource
  const plans = planRows({
    ...{ budgets, span: Number(span), source, dtype: dtype as 'bf16' | 'f32' },
    ...{ summaries: true, dev: true, asvd: true },
  })
  const stored = new Set(rows.map(({ key }) => key))
  return plans.filter(({ key }) => stored.has(key))
}

function denseRow(dtype: StorageDtype): RowPlan {
  const model = { kind: 'dense' as const, dtype }
  return { key: rowKey(model), name: `dense ${dtype}`, model, fall: { kind: 'full' }, timed: true }
}

/** The package's default, of one level. */
function defaultSpec(keep: number, { source, dtype }: RowOptions): LowRankSpec {
  const calibration = { source, whitening: 'two-sided', labels: 'model', shrunk: true } as const
  return { kind: 'low-rank', calibration, method: 'curve', storage: 'pivoted', dtype, keep }
}

/** The dense model rounded against the calibration: at keep 1 no projection is factored. */
function roundedRow(dtype: 'int8' | 'int4', options: RowOptions): RowPlan {
  const model = { ...defaultSpec(1, options), dtype }
  return {
    ...{ key: rowKey(model), name: `dense ${dtype}, against the calibration` },
    ...{ model, fall: { kind: 'full' }, timed: false },
  }
}

function budgetRows(budget: number, options: RowOptions): RowPlan[] {
  const { span, source, dev, asvd } = options
  const lowRank = (rest: Partial<LowRankSpec>) => ({ ...defaultSpec(budget, options), ...rest })
  const jointly = (count: 2 | 5) => {
    const levels = levelsAround(budget, span, count)
    return lowRank({ keep: levels[0] ?? budget, levels })
  }
  const row = (name: string, model: LowRankSpec, fall: Fall, timed: boolean, from?: number): RowPlan => ({
    key: [budget, rowKey(model), ...(from === undefined ? [] : [`from ${from}`]), fallKey(fall)].join(' '),
    ...{ name, budget, model, fall, timed },
    ...(from === undefined ? {} : { from }),
  })
  const full: Fall = { kind: 'full' }
  const input = { source, whitening: 'input', labels: 'data' } as const
  const scaled = { source, whitening: 'scaled', labels: 'data' } as const
  const [two, five] = [jointly(2), jointly(5)]
  const [high = budget, low = budget] = two.levels ?? []
  const apart = (name: string, above: ModelSpec): RowPlan => {
    const plan = row(name, lowRank({ keep: low }), { kind: 'fitted', family: 'step' }, true)
    return { ...plan, key: `${plan.key} below ${rowKey(above)}`, above }
  }
  return [
    row('uniform (SVD-LLM), static', lowRank({ method: 'uniform', calibration: input }), full, false),
    ...(asvd ? [row('asvd, static', lowRank({ method: 'asvd', calibration: scaled }), full, false)] : []),
    row('energy (two-sided spectrum), static', lowRank({ method: 'energy' }), full, false),
    row('fisher (FLRC), static', lowRank({ method: 'fisher' }), full, false),
    row('curve, static', lowRank({}), full, true),
    row('static level of the joint levels', five, full, false, 2),
    row('level 0 of five levels', five, full, false),
    row('prompt at level 0, then constant', five, { kind: 'constant' }, true),
    ...families.map((family) => row(`${family}, five levels`, five, { kind: 'fitted', family }, true)),
    row('step reversed, two levels', two, { kind: 'reversed' }, false),
    row('adaptive, two levels', two, { kind: 'adaptive' }, true),
    row('level 0 of two levels', two, full, true),
    row('self-speculation, two levels', two, { kind: 'speculative' }, true),
    row('step, two levels', two, { kind: 'fitted', family: 'step' }, true),
    apart('step, two levels that share nothing', lowRank({ keep: high })),
    apart('step, dense and one level', { kind: 'dense', dtype: options.dtype }),
    ...(dev ? [row('calibrated, two levels', two, { kind: 'calibrated' }, true)] : []),
    ...(dev ? [row('calibrated, five levels', five, { kind: 'calibrated' }, true)] : []),
  ]
}

function fallKey(fall: Fall): string {
  return fall.kind === 'fitted' ? fall.family : fall.kind
}
