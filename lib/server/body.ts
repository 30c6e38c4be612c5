import { RequestFailure } from './failure.js'

/**
 * The JSON of a request of at most `most` bytes. That it must be called JSON keeps pages of elsewhere from posting it: a
 * browser would have to ask first. (Hono's own limit of bodies wants Request replaced for the whole process.)
 */
export async function readJson({ headers, body }: Request, most: number): Promise<unknown> {
  if (!/^application\/json *(;|$)/i.test(headers.get('content-type') ?? '')) {
    const message = 'the body must be JSON, with Content-Type: application/json'
    throw new RequestFailure(415, 'unsupported_media_type', message)
  }
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of body ?? []) {
    size += part.length
    // The rest is read and dropped: who is still sending would not hear the answer.
    if (size > most) parts.length = 0
    else parts.push(part)
  }
  if (size > most)
    throw new RequestFailure(413, 'body_too_large', `the body has more than the ${most} bytes allowed`)
  const value = parse(textOf(Buffer.concat(parts)))
  checkDepth(value)
  return value
}

/** Bytes that are no characters would be answered as others than were meant. */
function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new RequestFailure(400, 'E_USAGE', 'the body is not valid UTF-8')
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new RequestFailure(400, 'E_USAGE', `the body is not valid JSON (${reason})`)
  }
}

/** Nothing that a request may hold is nested deeper; what goes through it level by level would run out of stack. */
const mostLevels = 64

function checkDepth(value: unknown): void {
  let level = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > mostLevels) {
      throw new RequestFailure(
        400,
        'E_USAGE',
        `the body is nested deeper than the ${mostLevels} levels allowed`,
      )
    }
    level = level.flatMap((one) => (typeof one === 'object' && one !== null ? Object.values(one) : []))
  }
}
