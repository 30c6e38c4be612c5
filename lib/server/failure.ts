import { toFlrcError } from '../binding.js'
import { type ErrorCode, FlrcError } from '../errors.js'

/** What a request is refused for, beyond what an FlrcError says. */
export class RequestFailure extends Error {
  readonly status: number
  readonly code: string
  /** The field of the body that is at fault. */
  readonly param: string | undefined
  readonly headers: Readonly<Record<string, string>>

  constructor(
    status: number,
    code: string,
    message: string,
    detail: { param?: string; headers?: Record<string, string> } = {},
  ) {
    super(message)
    this.status = status
    this.code = code
    this.param = detail.param
    this.headers = detail.headers ?? {}
  }
}

/** An error in the shape that OpenAI's API gives it. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string }
}

export interface FailedAnswer {
  status: number
  body: ErrorBody
  headers: Readonly<Record<string, string>>
}

/** What a request is to blame for; all else is the server's fault. */
const statuses: Partial<Record<ErrorCode, number>> = {
  E_USAGE: 400,
  E_CONTEXT: 400,
  E_CHAT_TEMPLATE: 400,
  E_TOKENIZER: 400,
  E_DISPOSED: 503,
}

const types: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  500: 'server_error',
  503: 'unavailable_error',
}

/** What a field of a request is to blame for. */
class FieldError extends Error {
  readonly param: string
  override readonly cause: FlrcError

  constructor(param: string, cause: FlrcError) {
    super(cause.message)
    this.param = param
    this.cause = cause
  }
}

/** An error with the field that is to blame for it, unless the server is. */
export function blamed(param: string, error: unknown): unknown {
  return error instanceof FlrcError && statuses[error.code] === 400 ? new FieldError(param, error) : error
}

/** How any error is answered. `name` is what the model is called, instead of where its files are. */
export function failedAnswer(error: unknown, name: string): FailedAnswer {
  if (error instanceof RequestFailure) {
    const { status, code, message, param, headers } = error
    return answer(status, code, message, param, headers)
  }
  const param = error instanceof FieldError ? error.param : undefined
  const { code, message, file } = toFlrcError(error instanceof FieldError ? error.cause : error)
  // Who went away hears nothing of it.
  if (code === 'E_ABORTED') return failedAnswer(closingFailure(), name)
  const status = statuses[code] ?? 500
  // What is no FlrcError is a fault in the program, of which its user has no use and a stranger might.
  if (code === 'E_INTERNAL') return answer(status, code, 'the server failed to answer; try again')
  const isAboutFile = file !== undefined && message.startsWith(`${file}: `)
  return answer(status, code, isAboutFile ? name + message.slice(file.length) : message, param)
}

function answer(
  status: number,
  code: string,
  message: string,
  param?: string,
  headers: FailedAnswer['headers'] = {},
): FailedAnswer {
  const type = types[status] ?? 'invalid_request_error'
  return { status, headers, body: { error: { message, type, param: param ?? null, code } } }
}

/** Of a server that ends, to whoever still waits for it. */
export function closingFailure(): RequestFailure {
  return new RequestFailure(503, 'E_ABORTED', 'the server is closing; try again when it runs', {
    headers: { 'retry-after': '5' },
  })
}
