import { colour, rampClass, rampClasses } from './colours.js'
import { draw, type FigureText, plotLibrary } from './draw.js'

export interface MapCell {
  column: number
  row: string
  /** In [0, 1]: how deep the cell's colour is. */
  share: number
  /** Stands in the cell where it has room. */
  text: string
}

export interface MapPanel {
  name: string
  cells: readonly MapCell[]
}

export interface MapPlot extends FigureText {
  columnLabel: string
  /** Rows from the top. */
  rows: readonly string[]
  /** One above the other, over the same columns and rows. */
  panels: readonly MapPanel[]
  width?: number
}

const margins = { left: 58, bottom: 38, right: 8, top: 8 }
const rowHeight = 24
const panelHead = 26
/** Of the largest text in a cell, and of the least that can be read; a character is .62 as wide as high. */
const [largestText, leastText] = [9.5, 7.5]
const characterShare = 0.62

/** Cells coloured by a share, with their values written in them: columns across, rows down, as SVG (see `draw`). */
export async function mapPlot(figure: MapPlot): Promise<string> {
  const plot = await plotLibrary()
  const { panels, rows, columnLabel, width = 640 } = figure
  const cells = panels.flatMap(({ name, cells: inPanel }) => inPanel.map((cell) => ({ ...cell, panel: name })))
  const columns = [...new Set(cells.map(({ column }) => column))].sort((a, b) => a - b)
  const room = (width - margins.left - margins.right) / columns.length
  const longest = Math.max(...cells.map(({ text }) => text.length))
  const fontSize = Math.min(largestText, (room - 4) / (longest * characterShare))
  const written = fontSize >= leastText
  const every = Math.max(1, Math.ceil(22 / room))
  const at = { x: 'column', y: 'row', fy: 'panel' }
  const classes = Array.from({ length: rampClasses }, (_, index) => ({
    index,
    cells: cells.filter(({ share }) => rampClass(share) === index),
  })).filter(({ cells: inClass }) => inClass.length > 0)
  return draw(figure, {
    width,
    height: margins.top + margins.bottom + panels.length * (rows.length * rowHeight + panelHead),
    marginTop: margins.top,
    marginRight: margins.right,
    marginBottom: margins.bottom,
    marginLeft: margins.left,
    x: { type: 'band', domain: columns, padding: 0.06 },
    y: { type: 'band', domain: [...rows], padding: 0.08, insetTop: panelHead },
    fy: { domain: panels.map(({ name }) => name), padding: 0, axis: null },
    marks: [
      plot.axisX({
        label: columnLabel,
        labelAnchor: 'center',
        labelArrow: 'none',
        tickSize: 0,
        ticks: columns.filter((_, index) => index % every === 0),
      }),
      plot.axisY({ label: null, tickSize: 0 }),
      plot.text(panels, {
        ...{ fy: 'name', text: 'name', frameAnchor: 'top-left', textAnchor: 'start' },
        ...{ dy: 8, fill: colour('muted') },
      }),
      ...classes.flatMap(({ index, cells: inClass }) => [
        plot.cell(inClass, { ...at, fill: colour(`ramp-${index}`), stroke: colour('rule'), strokeWidth: 0.5 }),
        ...(written
          ? [plot.text(inClass, { ...at, text: 'text', fontSize, fill: colour(`on-ramp-${index}`) })]
          : []),
      ]),
    ],
  })
}
