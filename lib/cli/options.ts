import { type Command, InvalidArgumentError, Option } from 'commander'
import type { Device } from '../device.js'
import type { StorageDtype } from '../format/types.js'
import { mostDrafts, type SpeculateOptions } from '../generate/speculation.js'

/** What every command takes. */
export interface CommonOptions {
  dtype?: StorageDtype
  device: Device
  threads: number
  json: boolean
}

/** What commands that decode under one schedule take. */
export interface ScheduleOptions {
  schedule: string
  below?: string
}

/** What a command's MODEL may be. */
export const modelForms = 'Hugging Face directory, .gguf file, FLRC directory or hub id org/name[@revision]'

const numberPattern = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i

/** A whole number or decimal, nothing after it, finite. */
export function parseNumber(text: string): number {
  const value = numberPattern.test(text) ? Number(text) : Number.NaN
  if (!Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.')
  return value
}

/** A parser of whole numbers from `minimum` on. */
export function wholeNumber(minimum: number, maximum = Number.MAX_SAFE_INTEGER) {
  return (text: string): number => {
    const value = parseNumber(text)
    if (!Number.isSafeInteger(value) || value < minimum || value > maximum) {
      const upper = maximum === Number.MAX_SAFE_INTEGER ? '' : ` up to ${maximum}`
      throw new InvalidArgumentError(`It must be a whole number from ${minimum}${upper}.`)
    }
    return value
  }
}

/** A parser of numbers in [minimum, maximum], or (minimum, maximum] where `open`. */
export function numberIn(minimum: number, maximum: number, open = false) {
  return (text: string): number => {
    const value = parseNumber(text)
    if (value < minimum || value > maximum || (open && value === minimum)) {
      const range = maximum === Number.POSITIVE_INFINITY ? `${minimum}` : `${minimum} to ${maximum}`
      throw new InvalidArgumentError(`It must be a number from ${range}${open ? `, ${minimum} excluded` : ''}.`)
    }
    return value
  }
}

export const parseFraction = numberIn(0, 1, true)

/** Budgets with commas between them, such as `.9,.8,.7`. */
export function parseFractions(text: string): number[] {
  return text.split(',').map((part) => parseFraction(part.trim()))
}

const units: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** Bytes, as `8GB`, `512MB` or a plain number. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim())
  const unit = units[match?.[2]?.toUpperCase() ?? '']
  const bytes = match && unit ? Math.floor(Number(match[1]) * unit) : 0
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new InvalidArgumentError('It must be a size such as 8GB or 512MB.')
  }
  return bytes
}

const decimalUnits: Record<string, number> = { '': 1, K: 1e3, M: 1e6, G: 1e9, T: 1e12 }

/** Bytes as sizes are printed: `80MB` is 80 million, `80MiB` is 80 times 2^20. */
export function parseDecimalBytes(text: string): number {
  const match = /^(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)B?$/i.exec(text.trim())
  const unit = decimalUnits[match?.[2]?.toUpperCase() ?? '']
  const bytes = match && unit ? Math.floor(Number(match[1]) * unit) : 0
  return bytes >= 1 && Number.isSafeInteger(bytes) ? bytes : parseBytes(text)
}

/** A share above 0, as `.05` or `5%`. */
export function parseShare(text: string): number {
  const share = /^(.*?)\s*%$/.exec(text.trim())
  return numberIn(0, Number.POSITIVE_INFINITY, true)(share?.[1] ?? text) / (share ? 100 : 1)
}

/** `K:B`: drafts and their budget. */
export function parseSpeculation(text: string): SpeculateOptions {
  const [tokens, budget, ...rest] = text.split(':')
  if (tokens === undefined || budget === undefined || rest.length > 0) {
    throw new InvalidArgumentError('It must be K:B, such as 4:.7.')
  }
  return { tokens: wholeNumber(1, mostDrafts)(tokens), budget: parseFraction(budget) }
}

/** What a `--schedule` may be. */
export const scheduleHelp =
  'active budget by step: full, constant:B, step, linear, cosine or exponential with :A:B:K, adaptive:A:B, calibrated'

export function addScheduleOptions(command: Command): Command {
  return command
    .option('--schedule <schedule>', scheduleHelp, 'full')
    .option(
      '--below <checkpoint>',
      "FLRC directory of the same model, whose levels follow the model's with weights of their own",
    )
}

/** Gathers an option that may be given several times. */
export function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value]
}

export function addCommonOptions(command: Command, dtypeHelp = 'type that weights are held in'): Command {
  return command
    .addOption(new Option('--dtype <type>', dtypeHelp).choices(['f32', 'bf16', 'int8', 'int4']))
    .addOption(
      new Option('--device <device>', 'where to compute').choices(['auto', 'cpu', 'cuda']).default('auto'),
    )
    .option('--threads <n>', 'compute threads; 0 is all cores', wholeNumber(0, 4096), 0)
    .option('--json', 'print exactly one JSON document', false)
}
