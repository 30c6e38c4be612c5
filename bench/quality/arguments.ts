/** What the programs that make tables take from their command lines; each throws E_USAGE naming the option. */
import path from 'node:path'
import { type ParseArgsConfig, parseArgs } from 'node:util'
import { packageRoot } from '#lib/binding.js'
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

export function parsedArguments<T extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], allowPositionals: true, options })
  } catch (error) {
    throw usageError(error instanceof Error ? error.message : String(error))
  }
}

export interface Subject {
  model: string
  calibration: string
  text: string
  /** Whether it is the embedded model, whose context is 512. */
  isEmbedded: boolean
}

/** The model named and its two texts; without a name the embedded model, on texts of its own. */
export function subjectOf(
  positionals: readonly string[],
  given: { calibration?: string; text?: string },
): Subject {
  const tiny = path.join(packageRoot, 'models', 'tiny')
  const [model = tiny, ...rest] = positionals
  if (rest.length > 0) throw usageError(`one model is taken, not also ${rest.join(', ')}`)
  const isEmbedded = positionals.length === 0
  const own = (name: string) => (isEmbedded ? path.join(tiny, name) : undefined)
  const { calibration = own('calibration.txt'), text = own('heldout.txt') } = given
  if (calibration === undefined || text === undefined) {
    throw usageError('a model needs --calibration FILE and --text FILE, two different texts')
  }
  return { model, calibration, text, isEmbedded }
}

/** Refuses to continue what is nowhere kept. */
export function checkContinue(values: { continue: boolean; json?: string }): void {
  if (values.continue && values.json === undefined) {
    throw usageError('--continue needs the --json FILE to continue')
  }
}
