import type { DialogueSample } from '../data/dialogues.js'

interface Weighted {
  /** Share of the samples beside the other sources' weights; 1 by default. */
  weight?: number
  /** Names the source in errors, and (a path without its directories) in the plan. */
  name?: string
}

/** Plain text. */
export interface TextSource extends Weighted {
  text: string
}

/** Conversations in the model's chat template: samples, or the text of a .jsonl file of them. */
export interface DialogueSource extends Weighted {
  dialogues: string | readonly DialogueSample[]
}

/** Text that the model writes itself, plain and in its chat template. */
export interface SelfSource extends Weighted {
  self: true
}

/** What to calibrate on: a text, one of several sources with its share of the samples, or ready token windows. */
export type CalibrationText = string | TextSource | DialogueSource | SelfSource | Int32Array

/** What a source gave, as the plan records it: enough to make the same windows again. */
export interface UsedSource {
  kind: 'text' | 'dialogues' | 'self' | 'windows'
  name?: string
  /** Of the text or .jsonl text; of the token ids (int32, little-endian) where there is no text. */
  sha256: string
  /** None for ready windows, which are used as they are. */
  weight?: number
  /** Windows of the calibration that came from this source. */
  windows: number
  /** How the model wrote its own text. */
  sampling?: { seed: number; temperature: number; topP: number; plainWindows: number; chatWindows: number }
}
