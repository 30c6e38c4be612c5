export type { AllocationMethod, FactorStorage, Rank, Sensitivity } from './allocate.js'
export { type SensitivityOptions, sensitivitySearch } from './asvd.js'
export {
  type CalibrateOptions,
  Calibration,
  type CalibrationText,
  calibrate,
  type LoadCalibrationOptions,
  type ProjectionScores,
  type Shrinkage,
  type Whitening,
} from './calibrate.js'
export {
  type CalibratedSchedule,
  type CalibrateScheduleOptions,
  calibrateSchedule,
  type MeasuredSchedule,
  type ScheduleGoal,
} from './calibrate-schedule.js'
export type { DialogueSource, SelfSource, TextSource, UsedSource } from './calibration/sources.js'
export type { SaveCalibrationOptions } from './calibration/stored.js'
export type { HeldOutPerplexity } from './checkpoint/plan.js'
export {
  type AllocateOptions,
  type CompressOptions,
  compress,
  type KeepOptions,
  type ScoreKind,
} from './compress.js'
export type { ChoiceSample } from './data/choices.js'
export { type DialogueSample, parseDialogues, summaryPrompt } from './data/dialogues.js'
export type { Device, DeviceType } from './device.js'
export { type ErrorCode, errorCodes, FlrcError } from './errors.js'
export type {
  AgreementOptions,
  AgreementResult,
  ChoiceOptions,
  ChoiceResult,
  PerplexityOptions,
  PerplexityResult,
  SummarizeOptions,
  SummarizeResult,
} from './evaluate.js'
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
  type SpeculateOptions,
  type TokenLogprob,
} from './generate.js'
export { type InspectedProjection, type Inspection, inspect } from './inspect.js'
export type { ModelLevel, Progress, TaskOptions } from './model.js'
export type { Projection } from './projections.js'
export {
  type CompressionReport,
  type LoadOptions,
  Model,
  type SaveOptions,
} from './public-model.js'
export type { RecoveryPoint, RecoveryReport } from './recover/report.js'
export type { RecoverOptions } from './recover.js'
export {
  type AdaptiveOptions,
  adaptive,
  calibrated,
  constant,
  type EntropyThresholds,
  full,
  linear,
  progressive,
  type Schedule,
  type ScheduleChoice,
  type ScheduleContext,
  step,
} from './schedule.js'
export { type ModelServer, type ServedRequest, type ServeOptions, serve } from './serve.js'
