import { medianOf } from '#lib/statistics/median.js'
import { markdownTable } from '../quality/tables.js'
import { spread } from '../support/spread.js'

export interface LlamaRow {
  engine: string
  type: string
  /** Of the weights that a token reads: flrc's in memory, the file's for others. */
  bytes: number
  /** Tokens a second, by round. */
  decode: number[]
  prefill: number[]
}

export interface LlamaResults {
  machine: string
  threads: number
  promptTokens: number
  tokens: number
  prefillTokens: number
  /** Bytes a second that all threads read, by round. */
  bandwidth: number[]
  rows: LlamaRow[]
}

const nameOf = ({ engine, type }: LlamaRow) => `${engine} ${type}`

/** Round by round, as both took turns. */
function ratio(of: readonly number[], by: readonly number[]): string {
  return spread(
    of.map((value, round) => value / (by[round] ?? Number.NaN)),
    2,
  )
}

/** Speeds of all rows, and flrc's in times of each of the others'. */
export function llamaTables(results: LlamaResults): string {
  const { rows, bandwidth, threads, promptTokens, tokens, prefillTokens } = results
  const share = ({ decode, bytes }: LlamaRow) =>
    medianOf(decode.map((speed, round) => (speed * bytes) / (bandwidth[round] ?? Number.NaN)))
  const speeds = markdownTable(
    ['model', 'MB', 'decode, tokens/s', 'share of bandwidth', 'prefill, tokens/s'],
    rows.map((row) => [
      nameOf(row),
      (row.bytes / 1e6).toFixed(1),
      spread(row.decode, 1),
      `${(100 * share(row)).toFixed(0)}%`,
      spread(row.prefill, 0),
    ]),
  )
  const ours = rows.filter(({ engine }) => engine === 'flrc')
  const others = rows.filter(({ engine }) => engine !== 'flrc')
  const ratios = (of: 'decode' | 'prefill') =>
    markdownTable(
      [`${of}, in times of`, ...ours.map(({ type }) => type)],
      others.map((other) => [nameOf(other), ...ours.map((row) => ratio(row[of], other[of]))]),
    )
  return [
    `${results.machine}, ${threads} threads, which read ${spread(
      bandwidth.map((value) => value / 1e9),
      1,
    )} GB/s. Decoding ${tokens} tokens after ${promptTokens}, prefill of ${prefillTokens}; ${bandwidth.length} rounds in turn:`,
    speeds,
    ratios('decode'),
    ratios('prefill'),
  ].join('\n\n')
}
