import * as assert from 'uvu/assert'
import { type ErrorCode, FlrcError } from '#lib/errors.js'

export interface ExpectedError {
  code: string
  /** The file named, in the message too. */
  file?: string
  tensor?: string
  message?: RegExp
  /** Longest the call may take, in ms: of the process's own time, and ten times that on a busy machine. */
  within?: number
}

/** Runs what must fail, and checks what it throws: an FlrcError, never another error, in time. */
export async function throwsFlrcError(run: () => unknown, expected: ExpectedError): Promise<void> {
  const [begin, cpu] = [performance.now(), process.cpuUsage()]
  let thrown: unknown
  try {
    await run()
  } catch (error) {
    thrown = error
  }
  const { user, system } = process.cpuUsage(cpu)
  const waited = performance.now() - begin
  const elapsed = Math.max(Math.min(waited, (user + system) / 1000), waited / 10)
  if (!(thrown instanceof FlrcError)) {
    throw new Error(`expected FlrcError ${expected.code}, got ${thrown === undefined ? 'success' : thrown}`, {
      cause: thrown,
    })
  }
  assert.is(thrown.code, expected.code, thrown.message)
  if (expected.file !== undefined) {
    assert.is(thrown.file, expected.file)
    assert.ok(thrown.message.includes(expected.file), `names the file: ${thrown.message}`)
  }
  if (expected.tensor !== undefined) {
    assert.is(thrown.tensor, expected.tensor)
    assert.ok(thrown.message.includes(expected.tensor), `names the tensor: ${thrown.message}`)
  }
  if (expected.message) assert.match(thrown.message, expected.message)
  const limit = expected.within ?? 5000
  assert.ok(elapsed < limit, `took ${Math.round(elapsed)} ms, more than ${limit}`)
}

/** The FlrcError of this code that the work fails with. */
export async function rejects(work: Promise<unknown>, code: ErrorCode): Promise<FlrcError> {
  try {
    await work
  } catch (error) {
    assert.instance(error, FlrcError)
    assert.is((error as FlrcError).code, code, (error as FlrcError).message)
    return error as FlrcError
  }
  throw new Error(`nothing failed where ${code} was expected`)
}
