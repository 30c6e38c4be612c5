/** What rows and their figures are called in tables and captions. */
import type { AllocationMethod, Whitening } from 'flrc'
import type { CalibrationSpec, LowRankSpec, ModelSpec } from './rows.js'

/** Megabytes to a tenth, or to the thousandth below ten of them. */
export function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 3 : 1)
}

export const whiteningNames: Record<Whitening, string> = {
  none: 'none',
  scaled: 'scaled by activations',
  input: 'input',
  'two-sided': 'two-sided',
}

export const isLowRank = (model: ModelSpec): model is LowRankSpec => model.kind === 'low-rank'

export function methodName(method: AllocationMethod, whitening: Whitening): string {
  if (method !== 'uniform') return method
  return { none: 'uniform (plain SVD)', scaled: method, input: 'uniform (SVD-LLM)', 'two-sided': method }[
    whitening
  ]
}

/** With the labels, where something of the row comes from gradients. */
export function whiteningName(
  { whitening, labels, shrunk }: CalibrationSpec,
  method: AllocationMethod,
): string {
  const gradients = whitening === 'two-sided' || method === 'fisher' || method === 'curve'
  const name = gradients ? `${whiteningNames[whitening]}, labels ${labels}` : whiteningNames[whitening]
  return shrunk ? `${name}, shrunk` : name
}

export function modelName(model: ModelSpec): string {
  switch (model.kind) {
    case 'dense':
      return `dense ${model.dtype}`
    case 'source':
      return 'dense, the source file'
    case 'rounded':
      return model.blockBits === undefined
        ? 'dense, only embedding int8'
        : `dense, rounded to ${model.blockBits} bits`
    case 'trivial':
      return model.summary === 'constant' ? 'one sentence for all' : 'first 20 words'
    case 'low-rank':
      // Keep 1 leaves every projection dense: what is left of compressing is the rounding.
      if (model.keep === 1) return `dense ${model.dtype}, against the calibration`
      return methodName(model.method, model.calibration.whitening) + (model.drops ? ', channels dropped' : '')
  }
}
