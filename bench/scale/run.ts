/** Child process of bench/scale.ts: compresses one model, so that the peak of memory is this compression's own. */
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { calibrate, compress, Model } from 'flrc'
import { type Cost, costOf } from '../search/costs.js'
import { randomWindows } from './generate.js'

export interface RunOptions {
  samples: number
  seqLen: number
  keep: number
  memory: number
  threads: number
}

/** What one stage took; `peakBytes` is the highest resident set up to its end. */
export interface StageCost extends Cost {
  peakBytes: number
}

export interface RunResult {
  threads: number
  tokens: number
  keep: number
  stages: { load: StageCost; calibrate: StageCost; cut: StageCost; save: StageCost }
  /** Parts of `calibrate`, seconds. */
  parts: { forward: number; backward: number; moments: number; factorize: number; curves: number }
  atOnce: { sequences: number; projections: number; oneInput: boolean }
  weightBytes: number
  /** Resident set before anything was loaded. */
  baseBytes: number
}

async function stage<T>(work: () => Promise<T>): Promise<{ value: T; cost: StageCost }> {
  const { value, cost } = await costOf(work)
  return { value, cost: { ...cost, peakBytes: process.resourceUsage().maxRSS * 1024 } }
}

async function run(directory: string, options: RunOptions): Promise<RunResult> {
  const { samples, seqLen, keep, memory, threads } = options
  const baseBytes = process.memoryUsage.rss()
  const load = await stage(() => Model.load(directory, { threads }))
  const model = load.value
  const windows = randomWindows(model.config.vocabSize, samples, seqLen, 1)
  const calibrated = await stage(() => calibrate(model, { calibration: windows, samples, seqLen, memory }))
  const calibration = calibrated.value
  const cut = await stage(() => compress(model, { keep, calibration }))
  calibration.dispose()
  const { seconds, atOnce } = calibration.figures
  const saved = await stage(() => cut.value.save(path.join(directory, 'flrc')))
  const stages = { load: load.cost, calibrate: calibrated.cost, cut: cut.cost, save: saved.cost }
  return {
    ...{
      threads: model.threads || availableParallelism(),
      tokens: samples * seqLen,
      stages,
      parts: seconds,
      atOnce,
      baseBytes,
    },
    keep: (cut.value.report?.storedParameters ?? 0) / model.denseParameters,
    weightBytes: model.bytes,
  }
}

const [directory, options] = process.argv.slice(2)
if (directory === undefined || options === undefined) throw new Error('usage: run.js DIRECTORY OPTIONS')
console.log(JSON.stringify(await run(directory, JSON.parse(options) as RunOptions)))
