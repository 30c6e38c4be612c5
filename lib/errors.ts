/** Every code an FlrcError can carry. Codes are stable: programs may compare against them. */
export const errorCodes = [
  'E_MODEL_FORMAT',
  'E_UNSUPPORTED_ARCH',
  'E_UNSUPPORTED_TYPE',
  'E_TOKENIZER',
  'E_CHAT_TEMPLATE',
  'E_CALIBRATION',
  'E_OUT_OF_MEMORY',
  'E_ABORTED',
  'E_DEVICE',
  'E_EXISTS',
  'E_BUSY',
  'E_NOT_FOUND',
  'E_HUB',
  'E_IO',
  'E_CONTEXT',
  'E_NUMERIC',
  'E_USAGE',
  'E_DISPOSED',
  'E_BINDING',
  'E_VERSION',
  'E_INTERNAL',
] as const

export type ErrorCode = (typeof errorCodes)[number]

export interface ErrorDetail {
  /** The file at fault, as the user named it where possible. */
  file?: string
  /** The tensor at fault. */
  tensor?: string
  cause?: unknown
}

/** The one error class of the package: a stable code, and the file, tensor and remedy in the message. */
export class FlrcError extends Error {
  override readonly name = 'FlrcError'
  readonly code: ErrorCode
  readonly file: string | undefined
  readonly tensor: string | undefined

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause })
    this.code = code
    this.file = detail.file
    this.tensor = detail.tensor
  }
}

/** The error of an aborted call; one wording for all of them. */
export function abortedError(): FlrcError {
  return new FlrcError('E_ABORTED', 'the operation was aborted')
}
