/** Checks of command-line arguments; each throws E_USAGE naming the option. */
import { checkRange, checkWhole } from '#lib/check.js'
import { FlrcError } from '#lib/errors.js'

export function usageError(message: string): FlrcError {
  return new FlrcError('E_USAGE', message)
}

export function wholeOption(name: string, given: string): number {
  const value = Number(given)
  checkWhole(name, value, 1)
  return value
}

export function shareOption(name: string, given: string): number {
  const value = Number(given)
  checkRange(name, value, Number.MIN_VALUE, 1, 'a number above 0, at most 1')
  return value
}
