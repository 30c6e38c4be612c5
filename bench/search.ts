/**
 * What a plan costs: `npm run bench -- search MODEL --calibration FILE --samples N`.
 *
 * Seconds from the dense model in memory to a rank for every projection: ours (passes, factors, curves, allocation),
 * the Fisher scores alone, and ASVD's sensitivity search, which cuts one projection at a time and reads the
 * calibration text through the rest. That search is timed on `--projections` of them (21 by default: all seven kinds,
 * spread over the layers) over its whole grid, and multiplied to all of them. The methods take turns: a round of each,
 * with a share of the search's projections. `--linear` also times one projection's grid on half of the windows:
 * the search costs in proportion to them, so that `--search-windows N` may time it on N windows alone and multiply
 * by their share as well, which the output then says. CPU seconds stand beside wall seconds, for machines that others use too.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { type Calibration, calibrate, Model } from 'flrc'
import { allocate } from '#lib/allocate.js'
import { sensitivitySearch } from '#lib/asvd.js'
import { type Cost, costOf, plus, scaled, spreadProjections } from './search/costs.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calibration: { type: 'string' },
    samples: { type: 'string', default: '64' },
    'seq-len': { type: 'string', default: '512' },
    keep: { type: 'string', default: '.8' },
    projections: { type: 'string', default: '21' },
    'search-windows': { type: 'string' },
    rounds: { type: 'string', default: '3' },
    linear: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
})
const [source] = positionals
if (source === undefined || values.calibration === undefined) {
  console.log('skipped: usage is npm run bench -- search MODEL --calibration FILE [--samples 64] [--linear]')
  process.exit(0)
}

const seqLen = Number(values['seq-len'])
const rounds = Number(values.rounds)
const budgets = [Number(values.keep)]
const model = await Model.load(source)
const calibration = [await readFile(values.calibration, 'utf8')]
const task = { calibration, samples: Number(values.samples), seqLen }
const chosen = spreadProjections(model.config.layers, Number(values.projections))
const note = (line: string) => console.error(line)

/** Calibrates and allocates; nothing is cut. */
async function plan(method: 'curve' | 'fisher'): Promise<Calibration> {
  const calibrated = await calibrate(model, { ...task, curves: method === 'curve' })
  const scores = model.projections.map(({ name }) => calibrated.scores[name]?.fisher ?? 0)
  const curves = method === 'curve' ? calibrated.curves : undefined
  allocate(model.projections, { method, storage: 'pivoted', budgets, scores, curves })
  return calibrated
}

const planCosts: Record<'curve' | 'fisher', Cost[]> = { curve: [], fisher: [] }
let searched: Cost = { wall: 0, cpu: 0 }
let readTokens = 0
const { value: scaledCalibration, cost: scaledCost } = await costOf(() =>
  calibrate(model, { ...task, whitening: 'scaled', curves: false }),
)
// ASVD needs no gradients, so what our calibration spends on them is not charged to it.
const asvdFactors = scaled(scaledCost, 1 - scaledCalibration.figures.seconds.backward / scaledCost.wall)
note(`asvd: factors in ${asvdFactors.wall.toFixed(1)} s`)
const searchWindows = Number(values['search-windows'] ?? scaledCalibration.windows.length)
for (let round = 0; round < rounds; round++) {
  for (const method of ['curve', 'fisher'] as const) {
    const { value, cost } = await costOf(() => plan(method))
    value.dispose()
    planCosts[method].push(cost)
    note(`${method}: ${JSON.stringify(cost)}`)
  }
  const share = chosen.filter((_, index) => index % rounds === round)
  if (share.length === 0) continue
  const { value, cost } = await costOf(() =>
    sensitivitySearch(scaledCalibration, { projections: share, windows: searchWindows }),
  )
  searched = plus(searched, cost)
  readTokens = value.tokens
  note(`asvd: ${share.length} projections in ${cost.wall.toFixed(1)} s`)
}

const tokens = scaledCalibration.options.tokens
const count = model.projections.length
const search = plus(asvdFactors, scaled(searched, ((count / chosen.length) * tokens) / readTokens))
const mean = (costs: readonly Cost[]) => scaled(costs.reduce(plus), 1 / costs.length)
const curve = mean(planCosts.curve)
const row = (method: string, measured: Cost, timed: number, all: Cost) => ({
  ...{ method, tokens, measured, timed, projections: count, all },
  ratio: { wall: all.wall / curve.wall, cpu: all.cpu / curve.cpu },
})
const rows = [
  row('curve: passes, factors, curves, allocation', curve, count, curve),
  row('fisher: passes, factors, allocation', mean(planCosts.fisher), count, mean(planCosts.fisher)),
  row('asvd: forward pass, factors, sensitivity search', plus(asvdFactors, searched), chosen.length, search),
]

interface Linear {
  windows: number
  tokens: number
  cost: Cost
}
const linear: Linear[] = []
if (values.linear) {
  const [projection = 0] = chosen
  for (const used of [Math.max(1, searchWindows >> 1), searchWindows]) {
    const { cost } = await costOf(() =>
      sensitivitySearch(scaledCalibration, { projections: [projection], windows: used }),
    )
    linear.push({ windows: used, tokens: used * seqLen, cost })
  }
}
scaledCalibration.dispose()
model.dispose()

const seconds = ({ wall, cpu }: Cost) => `${wall.toFixed(1)} (${cpu.toFixed(1)})`
const lines = [
  `Keep ${budgets[0]}, ${availableParallelism()} threads; seconds, in brackets CPU seconds. Ours is the mean of ${rounds} runs; the ` +
    `search was timed on ${chosen.length} of ${count} projections over its whole grid` +
    `${readTokens < tokens ? `, on ${readTokens} of ${tokens} tokens,` : ''} and multiplied to all of them.`,
  '',
  '| method | tokens | measured | projections timed | in all | ratio |',
  '| --- | --- | --- | --- | --- | --- |',
  ...rows.map(
    ({ method, measured, timed, all, ratio }) =>
      `| ${method} | ${tokens} | ${seconds(measured)} | ${timed} of ${count} | ${seconds(all)} | ` +
      `${ratio.wall.toFixed(1)} (${ratio.cpu.toFixed(1)}) |`,
  ),
  ...(linear.length > 0 ? ['', "One projection's grid by tokens:", ''] : []),
  ...linear.map(({ tokens: read, cost }) => `- ${read} tokens: ${seconds(cost)}`),
]
console.log(lines.join('\n'))
if (values.json !== undefined) {
  const options = {
    ...{ samples: task.samples, seqLen, searchTokens: readTokens, keep: budgets[0], rounds },
    threads: availableParallelism(),
  }
  const result = { options, rows, runs: planCosts, linear }
  await writeFile(values.json, `${JSON.stringify(result, null, 2)}\n`)
}
