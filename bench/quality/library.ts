/**
 * What the tables call of flrc that is still being built beside them, under its agreed names. Once it is there,
 * this file goes and its importers name 'flrc' and lib/data themselves: the types then check against the real ones.
 */
import * as flrc from 'flrc'

export type Method = 'uniform' | 'asvd' | 'energy' | 'fisher' | 'curve'
export type Whitening = 'none' | 'scaled' | 'input' | 'two-sided'

export interface DialogueSample {
  dialogue?: string
  summaries?: string[]
  messages?: { role: string; content: string }[]
}

export type CalibrationText =
  | flrc.CalibrationText
  | { dialogues: readonly DialogueSample[]; weight?: number }
  | { self: true; weight?: number }

export type CalibrateOptions = Omit<flrc.CalibrateOptions, 'calibration' | 'whitening'> & {
  calibration: readonly CalibrationText[]
  whitening: Whitening
}

export type CompressOptions = Omit<flrc.CompressOptions, 'method' | 'calibration' | 'whitening'> & {
  method: Method
  calibration: flrc.Calibration
}

export type Interval = [low: number, high: number]

export interface ChoiceResult {
  accuracy: number
  accuracyNormalised: number
  samples: number
  intervals: { accuracy: Interval; accuracyNormalised: Interval }
}

export interface RougeScores {
  rouge1: number
  rouge2: number
  rougeL: number
}

export interface SummarizeResult extends RougeScores {
  samples: number
  intervals: Record<keyof RougeScores, Interval>
  reference?: RougeScores & { intervals: Record<keyof RougeScores, Interval> }
  outputs: { id: string; text: string }[]
}

interface Upcoming {
  calibrate(model: flrc.Model, options: CalibrateOptions): Promise<flrc.Calibration>
  compress(model: flrc.Model, options: CompressOptions): Promise<flrc.Model>
  sensitivitySearch(
    calibration: flrc.Calibration,
    options: { storage: 'pivoted' | 'plain'; windows: number } & flrc.TaskOptions,
  ): Promise<unknown>
  evaluate: {
    choice(
      model: flrc.Model,
      samples: readonly unknown[],
      options: { limit?: number } & flrc.TaskOptions,
    ): Promise<ChoiceResult>
    summarize(
      model: flrc.Model,
      samples: readonly DialogueSample[],
      options: {
        limit?: number
        maxTokens?: number
        reference?: readonly { id: string; text: string }[]
      } & flrc.TaskOptions,
    ): Promise<SummarizeResult>
    bootstrapMean(values: readonly number[]): { mean: number; interval: Interval }
  }
}

export const { calibrate, compress, sensitivitySearch, evaluate } = flrc as unknown as Upcoming

/** Named at run time, so that this compiles before the module is there. */
const modules = { choices: '#lib/data/choices.js', dialogues: '#lib/data/dialogues.js', rouge: '#lib/rouge.js' }

export async function parseChoices(text: string, file: string): Promise<readonly unknown[]> {
  return (await import(modules.choices)).parseChoices(text, file)
}

export async function parseDialogues(text: string, file: string): Promise<readonly DialogueSample[]> {
  return (await import(modules.dialogues)).parseDialogues(text, file)
}

export async function meanRouge(references: readonly string[], text: string): Promise<RougeScores> {
  return (await import(modules.rouge)).meanRouge(references, text)
}
