import { toFlrcError } from '../binding.js'
import type { ErrorCode } from '../errors.js'

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

/** How any error is answered. */
export function failedAnswer(error: unknown): FailedAnswer {
  if (error instanceof RequestFailure) {
    const { status, code, message, param, headers } = error
    return answer(status, code, message, param, headers)
  }
  const { code, message } = toFlrcError(error)
  // Who went away hears nothing of it.
  if (code === 'E_ABORTED') return failedAnswer(closingFailure())
  const status = statuses[code] ?? 500
  // What is no FlrcError is a fault in the program, of which its user has no use and a stranger might.
  return answer(status, code, code === 'E_INTERNAL' ? 'the server failed to answer; try again' : message)
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
