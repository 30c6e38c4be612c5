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

/** `wanted` says what is at the path. */
export function checkPath(name: string, value: unknown, wanted: string): void {
  checkText(name, value, wanted)
  if ((value as string).includes('\0')) refuse(name, shown(value), 'a path, which holds no NUL')
}

/** `wanted` says what the list is of. */
export function checkList(name: string, value: unknown, wanted: string): void {
  if (!Array.isArray(value)) refuse(name, shown(value), `a list of ${wanted}`)
}

/** `wanted` says what the numbers are. */
export function checkNumbers(name: string, value: unknown, wanted: string): void {
  checkList(name, value, wanted)
  const wrong = (value as unknown[]).find((one) => typeof one !== 'number')
  if (wrong !== undefined) refuse(name, `a list with ${shown(wrong)}`, `a list of ${wanted}`)
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

/** What ends a call, where it is given: an AbortSignal of any realm. */
export function checkSignal(signal: unknown): void {
  if (signal === undefined || signal === null) return
  const { aborted, addEventListener } = Object(signal) as Partial<AbortSignal>
  if (typeof aborted === 'boolean' && typeof addEventListener === 'function') return
  refuse('signal', typeof signal, 'an AbortSignal')
}

/** What every long call takes. */
export function checkTask({ signal, onProgress }: { signal?: unknown; onProgress?: unknown }): void {
  checkSignal(signal)
  checkedListener(onProgress)
}

/** What hears of progress, where it is given. */
export function checkedListener<T>(onProgress: T | undefined): T | undefined {
  if (onProgress !== undefined && typeof onProgress !== 'function')
    refuse('onProgress', onProgress, 'a function')
  return onProgress
}
