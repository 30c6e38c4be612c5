import { colour, seriesColour } from './colours.js'
import { draw, type FigureText, plotLibrary, textWidth } from './draw.js'

export interface Bar {
  name: string
  value: number
  /** Stands at the bar's end. */
  text: string
}

export interface BarsPlot extends FigureText {
  /** From the top. */
  bars: readonly Bar[]
  width?: number
}

const barHeight = 26

/** Horizontal bars from zero, each with its name before it and its value behind it, as SVG (see `draw`). */
export async function barsPlot({ bars, width = 640, ...text }: BarsPlot): Promise<string> {
  const plot = await plotLibrary()
  const longest = (strings: readonly string[]) => Math.max(0, ...strings.map(textWidth))
  return draw(text, {
    width,
    height: bars.length * barHeight + 8,
    marginTop: 4,
    marginBottom: 4,
    marginLeft: longest(bars.map(({ name }) => name)) + 12,
    marginRight: longest(bars.map((bar) => bar.text)) + 12,
    x: { domain: [0, Math.max(...bars.map(({ value }) => value))], axis: null },
    y: { type: 'band', domain: bars.map(({ name }) => name), padding: 0.3, label: null },
    marks: [
      plot.axisY({ label: null, tickSize: 0 }),
      plot.barX(bars, { x: 'value', y: 'name', fill: seriesColour(0) }),
      plot.text(bars, { x: 'value', y: 'name', text: 'text', textAnchor: 'start', dx: 6, fill: colour('ink') }),
      plot.ruleX([0], { stroke: colour('muted') }),
    ],
  })
}
