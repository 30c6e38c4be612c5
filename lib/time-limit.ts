import { types } from 'node:util'
import vm from 'node:vm'

/** The call took longer than it was given, and was stopped. */
export class TimeLimitError extends Error {}

const context = vm.createContext(Object.create(null))
const script = new vm.Script('task()')

/**
 * Runs a synchronous function that works on strangers' input and stops it after `limitMs`. V8 stops any
 * JavaScript this way, a regular expression that backtracks without end included. Memory is not bounded.
 */
export function withTimeLimit<T>(limitMs: number, task: () => T): T {
  let result: { value: T } | undefined
  context.task = () => {
    result = { value: task() }
  }
  try {
    script.runInContext(context, { timeout: Math.ceil(limitMs) })
  } catch (error) {
    // The error belongs to the context, so it is no instance of this realm's Error.
    if (types.isNativeError(error) && 'code' in error && error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') {
      throw new TimeLimitError(`stopped after ${Math.ceil(limitMs)} ms`)
    }
    throw error
  } finally {
    context.task = undefined
  }
  if (!result) throw new Error('the task ended without a result')
  return result.value
}
