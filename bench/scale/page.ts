import { formatBytes, formatSeconds } from '#lib/cli/output.js'
import { type Job, ratesOf, type Stage, secondsOf, spaceOf, stages } from './extrapolate.js'
import type { RunResult } from './run.js'
import { type ModelShape, parameters, shapes } from './shapes.js'

/** One measured compression. */
export interface ScaleRun {
  name: string
  shape: ModelShape
  samples: number
  seqLen: number
  memory: number
  /** Part of a series over depth. */
  series: boolean
  result: RunResult
}

export interface ScaleResults {
  machine: { cores: number; memoryBytes: number; node: string; blas: string }
  runs: ScaleRun[]
}

const begin = '<!-- begin: written by npm run bench -- scale -->'
const end = '<!-- end -->'

const table = (header: readonly string[], rows: readonly (readonly string[])[]): string =>
  [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const seconds = (value: number) => (value < 100 ? value.toFixed(1) : value.toFixed(0))
const billions = (value: number) => `${(value / 1e9).toPrecision(3)} B`

export const jobOf = ({ shape, samples, seqLen, result }: ScaleRun): Job => ({
  shape,
  tokens: samples * seqLen,
  seqLen,
  keep: result.keep,
})

export function stageSeconds({ stages: taken, parts }: RunResult): Record<Stage, number> {
  const { forward, backward, moments, factorize, curves } = parts
  return { passes: forward + backward, moments, factorize, curves, cut: taken.cut.wall }
}

const all = ({ stages: { load, calibrate, cut, save } }: RunResult) => [load, calibrate, cut, save]
const wallOf = (result: RunResult) => all(result).reduce((sum, { wall }) => sum + wall, 0)
const cpuOf = (result: RunResult) => all(result).reduce((sum, { cpu }) => sum + cpu, 0)
const peakOf = (result: RunResult) => Math.max(...all(result).map(({ peakBytes }) => peakBytes))

function measured(runs: readonly ScaleRun[]): string {
  const rows = runs.map((run) => {
    const { result, shape } = run
    const taken = stageSeconds(result)
    return [
      run.name,
      String(shape.layers),
      billions(parameters(shape)),
      String(result.tokens),
      seconds(result.stages.load.wall),
      ...stages.map((stage) => seconds(taken[stage])),
      seconds(result.stages.save.wall),
      seconds(wallOf(result)),
      seconds(cpuOf(result)),
      (result.tokens / result.stages.calibrate.wall).toFixed(1),
      formatBytes(result.weightBytes),
      formatBytes(run.memory),
      formatBytes(peakOf(result)),
    ]
  })
  const header = ['model', 'layers', 'parameters', 'tokens', 'load', ...stages, 'save', 'wall', 'CPU']
  return table([...header, 'tokens/s', 'weights', '`--memory`', 'peak'], rows)
}

function byDepth(runs: readonly ScaleRun[]): string {
  const rows = runs.map(({ name, shape, memory, result }) => [
    name,
    String(shape.layers),
    formatBytes(result.weightBytes),
    formatBytes(memory),
    formatBytes(peakOf(result)),
    formatBytes(result.stages.calibrate.peakBytes - result.stages.load.peakBytes),
    seconds(wallOf(result)),
  ])
  return table(
    ['model', 'layers', 'weights', '`--memory`', 'peak', 'calibration above loading', 'seconds'],
    rows,
  )
}

/** Calibrated on 64 windows of 512 tokens, at keep .8: the defaults of the figures in this project. */
const plan = { tokens: 64 * 512, seqLen: 512, keep: 0.8 }
const targets = ['llama-3.2-1b', 'llama-3-8b', 'llama-3-70b']

function extrapolated(source: ScaleRun): string {
  const rates = ratesOf(jobOf(source), stageSeconds(source.result), source.result.threads)
  const rows = targets.flatMap((name) => {
    const shape = shapes[name] as ModelShape
    return [2, 64].map((cores) => {
      const job = { ...plan, shape }
      const taken = secondsOf(job, rates, cores)
      const { weights, least, most, stored } = spaceOf(job, cores)
      const scratch = stored.boundaries + stored.activations + stored.factors
      return [
        name,
        String(cores),
        ...stages.map((stage) => formatSeconds(taken[stage])),
        formatSeconds(stages.reduce((sum, stage) => sum + taken[stage], 0)),
        ...[weights, least, most, scratch].map(formatBytes),
      ]
    })
  })
  return table(
    ['model', 'cores', ...stages, 'sum', 'weights', 'least beside', 'all at once', 'kept or spilled'],
    rows,
  )
}

/** What one run's rates say of another run, beside what that one took. */
function checked(source: ScaleRun, other: ScaleRun): string {
  const rates = ratesOf(jobOf(source), stageSeconds(source.result), source.result.threads)
  const foretold = secondsOf(jobOf(other), rates, other.result.threads)
  const taken = stageSeconds(other.result)
  const row = (title: string, values: Record<Stage, number>) => [
    title,
    ...stages.map((stage) => seconds(values[stage])),
    seconds(stages.reduce((sum, stage) => sum + values[stage], 0)),
  ]
  return table(
    [other.name, ...stages, 'sum'],
    [row(`foretold from ${source.name}`, foretold), row('measured', taken)],
  )
}

/** The measured and the extrapolated part of docs/scale.md. */
export function scaleTables({ machine, runs }: ScaleResults): string {
  const single = runs.filter(({ series }) => !series)
  const series = runs.filter((run) => run.series)
  const largest = single.toSorted((a, b) => b.shape.hidden - a.shape.hidden)[0]
  const other = single.toSorted((a, b) => parameters(b.shape) - parameters(a.shape))[0]
  const parts = [
    `Measured on ${machine.cores} cores with ${formatBytes(machine.memoryBytes)} of memory (Node ${machine.node}, ${machine.blas}); seconds.`,
  ]
  if (single.length > 0) parts.push(measured(single))
  if (series.length > 0) parts.push('One shape at several depths:', byDepth(series))
  if (largest) {
    parts.push(
      `Extrapolated from the rates of ${largest.name}, to ${plan.tokens} tokens in windows of ${plan.seqLen}, keep ${plan.keep}:`,
      extrapolated(largest),
    )
  }
  if (largest && other && other !== largest) {
    parts.push(
      'How far to trust it: one measurement foretold from the rates of the other.',
      checked(other, largest),
    )
  }
  return parts.join('\n\n')
}

/** The page with the tables between its marks. */
export function insertTables(page: string, tables: string): string {
  const from = page.indexOf(begin)
  const to = page.indexOf(end, from)
  if (from < 0 || to < 0) throw new Error(`the page has no ${begin} ... ${end}`)
  return `${page.slice(0, from + begin.length)}\n\n${tables}\n\n${page.slice(to)}`
}
