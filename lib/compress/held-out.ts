import type { Calibration } from '../calibrate.js'
import type { HeldOutPerplexity } from '../checkpoint/plan.js'
import { LoadedModel, type ModelParts, type TaskOptions } from '../model.js'
import { concatenate } from '../text.js'

/** Nine digits, as the plan has them, so that what is read back is what was measured. */
function rounded(value: number): number {
  return Number(value.toPrecision(9))
}

/** Perplexity of windows of equal length at a level. E_NUMERIC for a logit that is not finite, E_ABORTED. */
export async function windowPerplexity(
  model: LoadedModel,
  windows: readonly Int32Array[],
  level: number,
  task: TaskOptions,
): Promise<number> {
  const seqLen = windows[0]?.length ?? 0
  const losses = await model.windowLosses(concatenate(windows), seqLen, level, task)
  const total = losses.reduce((sum, loss) => sum + loss, 0)
  return rounded(Math.exp(total / (windows.length * (seqLen - 1))))
}

/** The dense model and every level of a model cut from it, on the windows that its calibration held out. */
export async function heldOutPerplexity(
  { whole: dense, heldOut }: Calibration,
  parts: ModelParts,
  task: TaskOptions,
): Promise<HeldOutPerplexity> {
  // A view of weights that the caller goes on holding, so it is not disposed.
  const small = new LoadedModel(parts)
  const levels: HeldOutPerplexity['levels'] = []
  const perplexity = await windowPerplexity(dense, heldOut, 0, task)
  for (const level of small.levels.keys()) {
    levels.push({ perplexity: await windowPerplexity(small, heldOut, level, task) })
  }
  const tokens = heldOut.reduce((sum, window) => sum + window.length - 1, 0)
  const budget = dense.levels[0]?.budget ?? 1
  return {
    windows: heldOut.length,
    tokens,
    dense: { bytes: dense.storedBytes, perplexity, ...(budget < 1 ? { budget } : {}) },
    levels,
  }
}
