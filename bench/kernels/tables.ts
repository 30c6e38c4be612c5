import { markdownTable } from '../quality/tables.js'

/** One projection or chain, in one type, with so many threads and columns. */
export interface KernelRow {
  chain: string
  kind: string
  dtype: string
  /** 0 for dense. */
  rank: number
  threads: number
  /** Tokens multiplied at a time. */
  columns: number
  /** Read in every round. */
  bytes: number
  /** Median of the rounds. */
  bytesPerSecond: number
  /** Read bandwidth of as many threads, median of the rounds. */
  bandwidth: number
  /** bytesPerSecond / bandwidth of the same round: median, least and most. */
  share: number
  shareSpread: [number, number]
}

export interface KernelResults {
  /** Instruction set of the kernels. */
  target: string
  rows: KernelRow[]
}

const keyOf = ({ chain, kind, dtype, rank, threads, columns }: KernelRow) =>
  [chain, kind, dtype, rank, threads, columns].join()

export const sameCase = (a: KernelRow, b: KernelRow): boolean => keyOf(a) === keyOf(b)

const distinct = <T>(values: readonly T[]): T[] => [...new Set(values)]

const percent = ({ share, shareSpread: [least, most] }: KernelRow) =>
  `${(100 * share).toFixed(0)}% (${(100 * least).toFixed(0)} to ${(100 * most).toFixed(0)})`

/** One token at a time: share of the read bandwidth, by type. */
function sharesTable(rows: readonly KernelRow[]): string {
  const types = distinct(rows.map(({ dtype }) => dtype))
  const nameOf = ({ chain, kind, rank }: KernelRow) => `${chain}, ${kind}${rank > 0 ? ` r = ${rank}` : ''}`
  const cases = distinct(rows.map(nameOf))
  return markdownTable(
    ['projection', ...types],
    cases.map((name) => [
      name,
      ...types.map((type) => {
        const row = rows.find((of) => nameOf(of) === name && of.dtype === type)
        return row === undefined ? '' : percent(row)
      }),
    ]),
  )
}

/** Several tokens at a time: what each beyond the first adds to the time, in times of one alone. */
function columnsTable(rows: readonly KernelRow[]): string {
  const counts = distinct(rows.map(({ columns }) => columns)).toSorted((a, b) => a - b)
  const alone = rows.filter(({ columns }) => columns === 1)
  const cost = (one: KernelRow, columns: number) => {
    const several = rows.find((row) => sameCase({ ...row, columns: 1 }, one) && row.columns === columns)
    return several && (one.bytesPerSecond / several.bytesPerSecond - 1) / (columns - 1)
  }
  const several = counts.filter((count) => count > 1)
  return markdownTable(
    ['projection', 'type', ...several.map((count) => `${count} tokens`)],
    alone
      .filter((one) => several.some((count) => cost(one, count) !== undefined))
      .map((one) => [
        `${one.chain}, ${one.kind}${one.rank > 0 ? ` r = ${one.rank}` : ''}`,
        one.dtype,
        ...several.map((count) => cost(one, count)?.toFixed(2) ?? ''),
      ]),
  )
}

/** The tables of all that was measured, by number of threads. */
export function kernelTables({ target, rows }: KernelResults): string {
  const parts: string[] = []
  for (const threads of distinct(rows.map((row) => row.threads)).toSorted((a, b) => a - b)) {
    const of = rows.filter((row) => row.threads === threads)
    const alone = of.filter(({ columns }) => columns === 1)
    const bandwidths = alone.map(({ bandwidth }) => bandwidth / 1e9)
    parts.push(
      `${threads} ${threads === 1 ? 'thread' : 'threads'} (${target}), which read ${Math.min(...bandwidths).toFixed(1)} to ` +
        `${Math.max(...bandwidths).toFixed(1)} GB/s. Share of that, one token at a time:`,
      sharesTable(alone),
    )
    if (of.some(({ columns }) => columns > 1)) {
      parts.push('What every token beyond the first adds, in times of one alone:', columnsTable(of))
    }
  }
  return parts.join('\n\n')
}
