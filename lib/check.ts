import { FlrcError } from './errors.js'

/** Checks of what a caller passes in; each throws E_USAGE naming the option, its value and what it may be. */

export function refuse(name: string, value: unknown, wanted: string): never {
  throw new FlrcError('E_USAGE', `${name} is ${String(value)}; it must be ${wanted}`)
}

/** A value as it would stand in a program. */
function shown(value: unknown): unknown {
  return typeof value === 'string' ? JSON.stringify(value) : value
}

/** `wanted` says what the text is. */
export function checkText(name: string, value: unknown, wanted: string): void {
  if (typeof value !== 'string') refuse(name, value, `a string, ${wanted}`)
}

/** `wanted` says what the object is. */
export function checkObject(name: string, value: unknown, wanted: string): void {
  if (Object(value) !== value) refuse(name, value, wanted)
}

export function checkWhole(name: string, value: unknown, from: number): void {
  if (Number.isSafeInteger(value) && (value as number) >= from) return
  refuse(name, shown(value), `a whole number from ${from}`)
}

/** `range` says in words what [from, to] is. */
export function checkRange(name: string, value: unknown, from: number, to: number, range: string): void {
  if (typeof value === 'number' && value >= from && value <= to) return
  refuse(name, shown(value), range)
}

export function checkOneOf(name: string, value: unknown, allowed: readonly string[]): void {
  if (allowed.some((candidate) => candidate === value)) return
  refuse(name, shown(value), `one of ${allowed.join(', ')}`)
}

/** `count` levels there are. */
export function checkLevel(level: unknown, count: number): void {
  if (Number.isSafeInteger(level) && (level as number) >= 0 && (level as number) < count) return
  throw new FlrcError(
    'E_USAGE',
    `level ${String(level)} does not exist; the model has levels 0 to ${count - 1}`,
  )
}

/** What hears of progress, where it is given. */
export function checkedListener<T>(onProgress: T | undefined): T | undefined {
  if (onProgress !== undefined && typeof onProgress !== 'function')
    refuse('onProgress', onProgress, 'a function')
  return onProgress
}
