/** Writes to stdout and waits until it is handed over, so that exiting afterwards loses nothing. */
export function print(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(error) : resolve()))
  })
}

export function printJson(value: unknown): Promise<void> {
  return print(`${JSON.stringify(value, jsonValue, 2)}\n`)
}

function jsonValue(_key: string, value: unknown): unknown {
  return ArrayBuffer.isView(value) ? Array.from(value as Float64Array) : value
}

/** A line for people, beside the result. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** Columns of text: the first column to the left, numbers to the right. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)),
  )
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n')
}

const lineLength = 80
const indent = '  '

/** Prose with its own line breaks, indented, in lines of at most 80 characters where words allow. */
export function formatProse(text: string): string {
  return text
    .split('\n')
    .flatMap((paragraph) => {
      const lines = ['']
      for (const word of paragraph.split(' ')) {
        const line = lines.at(-1) ?? ''
        const longer = line === '' ? word : `${line} ${word}`
        if (line === '' || indent.length + longer.length <= lineLength) lines[lines.length - 1] = longer
        else lines.push(word)
      }
      return lines
    })
    .map((line) => (line === '' ? '' : `${indent}${line}`))
    .join('\n')
}

const byteUnits = ['B', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB'] as const

/** Bytes in decimal units, three figures. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < byteUnits.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${byteUnits[unit]}`
}

export function formatSeconds(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`
}

/** A word of a command line as a shell takes it for one. */
export function shellWord(text: string): string {
  return /^[\p{L}\p{N}_./@:+,=\\-]+$/u.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
