export type { AllocationMethod, FactorStorage, Rank } from './allocate.js'
export {
  type CalibrateOptions,
  Calibration,
  type CalibrationText,
  calibrate,
  type ProjectionScores,
} from './calibrate.js'
export { type AllocateOptions, type CompressOptions, compress } from './compress.js'
export { type ErrorCode, errorCodes, FlrcError } from './errors.js'
export type { PerplexityOptions, PerplexityResult } from './evaluate.js'
export * as evaluate from './evaluate.js'
export { type ExportOptions, exportModel } from './export.js'
export type { ModelConfig, StorageDtype, StoredLevel } from './format/types.js'
export { Chat, type ChatMessage, type ChatOptions } from './generate/chat.js'
export {
  type Completion,
  complete,
  type GenerateOptions,
  type Generation,
  type GenerationEnd,
  type Piece,
} from './generate.js'
export { type InspectedProjection, type Inspection, inspect } from './inspect.js'
export type { ModelLevel, Progress, Projection, TaskOptions } from './model.js'
export {
  type CompressionReport,
  type Device,
  type LoadOptions,
  Model,
  type SaveOptions,
} from './public-model.js'
export type { RecoveryPoint, RecoveryReport } from './recover/report.js'
export type { RecoverOptions } from './recover.js'
export {
  constant,
  full,
  linear,
  progressive,
  type Schedule,
  type ScheduleContext,
  step,
} from './schedule.js'
