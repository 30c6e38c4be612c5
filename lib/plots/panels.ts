import { colour, rampClasses } from './colours.js'
import { draw, type FigureText, gridStroke, plotLibrary } from './draw.js'
import { formatTick, logTicks } from './ticks.js'

export interface PanelLine {
  points: readonly { x: number; y: number }[]
  /** Where on the line a choice was made. */
  chosen?: { x: number; y: number }
  /** In [0, 1]: the line's place in an order, told by how deep its colour is. */
  order: number
}

export interface PanelsPlot extends FigureText {
  panels: readonly { name: string; lines: readonly PanelLine[] }[]
  xLabel: string
  yLabel: string
  /** Of the logarithmic y axis. */
  domain: [number, number]
  width?: number
}

const across = 4
const panelHeight = 150
/** The palest classes of the ramp are hardly seen as lines. */
const palest = 3

/** Many lines over a logarithmic axis in small panels that share their axes, as SVG (see `draw`). */
export async function panelsPlot(figure: PanelsPlot): Promise<string> {
  const plot = await plotLibrary()
  const { panels, xLabel, yLabel, domain, width = 640 } = figure
  const ticks = logTicks(domain, 4)
  const rows = Math.ceil(panels.length / across)
  const placed = panels.map((panel, index) => ({
    ...panel,
    fx: index % across,
    fy: Math.floor(index / across),
  }))
  const shades = Array.from({ length: rampClasses - palest }, (_, index) => index)
  const shadeOf = (order: number) => Math.min(shades.length - 1, Math.floor(order * shades.length))
  const points = placed.flatMap(({ lines, fx, fy }, panel) =>
    lines.flatMap((line, index) =>
      line.points.map((point) => ({ ...point, fx, fy, line: `${panel} ${index}`, shade: shadeOf(line.order) })),
    ),
  )
  const chosen = placed.flatMap(({ lines, fx, fy }) =>
    lines.flatMap((line) => (line.chosen ? [{ ...line.chosen, fx, fy }] : [])),
  )
  const facet = { fx: 'fx', fy: 'fy' }
  return draw(figure, {
    width,
    height: rows * panelHeight + 64,
    marginLeft: 52,
    marginRight: 10,
    marginTop: 40,
    marginBottom: 42,
    fx: { axis: null, padding: 0.14 },
    fy: { axis: null, padding: 0.2 },
    x: { domain: [0, 1] },
    y: { type: 'log', domain, clamp: true },
    marks: [
      plot.gridY({ ...gridStroke, ticks }),
      plot.axisX({ label: null, ticks: [0, 0.5, 1], tickFormat: String, tickSize: 3, anchor: 'bottom' }),
      plot.axisY({ label: null, ticks, tickSize: 0, tickFormat: formatTick }),
      plot.text([xLabel], {
        frameAnchor: 'bottom',
        fx: 1,
        fy: rows - 1,
        dy: 34,
        dx: 70,
        fill: colour('muted'),
      }),
      plot.text([yLabel], {
        ...{ frameAnchor: 'top-left', textAnchor: 'start', fx: 0, fy: 0 },
        ...{ dx: -50, dy: -32, fill: colour('muted') },
      }),
      plot.text(placed, {
        ...facet,
        ...{ text: 'name', frameAnchor: 'top-left', textAnchor: 'start', dy: -14, fontWeight: 600 },
      }),
      ...shades.map((shade) =>
        plot.line(
          points.filter((point) => point.shade === shade),
          { ...facet, x: 'x', y: 'y', z: 'line', stroke: colour(`ramp-${shade + palest}`), strokeWidth: 1.1 },
        ),
      ),
      plot.dot(chosen, { ...facet, x: 'x', y: 'y', r: 2, fill: colour('series-1') }),
    ],
  })
}
