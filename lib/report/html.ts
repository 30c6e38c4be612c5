/** Text as it stands between tags and in quoted attributes. */
export function escapeHtml(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
  return text.replace(/[&<>"']/g, (sign) => names[sign] ?? sign)
}

export type Cell = string | number | undefined

export interface Table {
  caption: string
  columns: readonly string[]
  /** The first cell of a row is its header. */
  rows: readonly (readonly Cell[])[]
}

export interface Figure {
  /** From `lib/plots`, or nothing where a table says it all. */
  svg?: string
  /** What one sees and in which units, as plain text. */
  caption: string
  /** The same figures for those who cannot see it. */
  table: Table
  /** What the ramp of colours goes from and to, where it is used. */
  ramp?: { from: string; to: string }
}

export interface Section {
  /** Of letters and dashes, unique in its page. */
  id: string
  title: string
  /** What the section is about, as plain text. */
  lead: string
  figures: readonly Figure[]
}

export function tableHtml({ caption, columns, rows }: Table): string {
  const kinds = columns.map((_, column) => (rows.every((row) => isFigure(row[column])) ? '' : ' class="words"'))
  const head = columns
    .map((name, column) => `<th scope="col"${kinds[column]}>${escapeHtml(name)}</th>`)
    .join('')
  const body = rows.map(([first, ...rest]) => {
    const cells = rest
      .map((cell, index) => `<td${kinds[index + 1]}>${escapeHtml(String(cell ?? ''))}</td>`)
      .join('')
    return `<tr><th scope="row">${escapeHtml(String(first ?? ''))}</th>${cells}</tr>`
  })
  return (
    `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(caption)}"><table>` +
    `<caption>${escapeHtml(caption)}</caption><thead><tr>${head}</tr></thead>` +
    `<tbody>${body.join('\n')}</tbody></table></div>`
  )
}

function isFigure(cell: Cell): boolean {
  return cell === undefined || typeof cell === 'number' || /^$|^[+−-]?[\d.]+(e[+-]\d+)?%?$/.test(cell)
}

/** Figures in per cent, two of them below ten. */
export function percent(share: number): string {
  const value = share * 100
  return `${value < 9.95 ? value.toPrecision(2) : value.toFixed(value < 99.95 ? 1 : 0)}%`
}
