import { colour, rampClasses, seriesColour } from './colours.js'
import { draw, type FigureText, gridStroke, plotLibrary } from './draw.js'
import { formatTick, logTicks } from './ticks.js'

export interface PanelLine {
  points: readonly { x: number; y: number }[]
  /** Where on the line a choice was made. */
  chosen?: { x: number; y: number }
  /** In [0, 1]: the line's place in an order, told by how deep its colour is. */
  order: number
  /** Keeps a value until the next point. */
  stepped?: boolean
  dashed?: boolean
}

export interface PanelsPlot extends FigureText {
  panels: readonly { name: string; lines: readonly PanelLine[] }[]
  /** Linear, from `domain[0]` to `domain[1]`, with few marks. */
  x: { label: string; domain: [number, number]; ticks: readonly number[] }
  y: { label: string; type: 'linear' | 'log'; domain: [number, number]; ticks?: readonly number[] }
  width?: number
}

const across = 4
const panelHeight = 150
/** The palest classes of the ramp are hardly seen as lines. */
const palest = 3

/** Many lines in small panels that share their axes, as SVG (see `draw`). */
export async function panelsPlot(figure: PanelsPlot): Promise<string> {
  const plot = await plotLibrary()
  const { panels, x, y, width = 640 } = figure
  const ticks = [...(y.ticks ?? logTicks(y.domain, 4))]
  const rows = Math.ceil(panels.length / across)
  const placed = panels.map((panel, index) => ({
    ...panel,
    fx: index % across,
    fy: Math.floor(index / across),
  }))
  const shades = rampClasses - palest
  const lines = placed.flatMap(({ lines: inPanel, fx, fy }) => inPanel.map((line) => ({ ...line, fx, fy })))
  const chosen = lines.flatMap((line) => (line.chosen ? [{ ...line.chosen, fx: line.fx, fy: line.fy }] : []))
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
    x: { domain: x.domain },
    y: { type: y.type, domain: y.domain, clamp: true },
    marks: [
      plot.gridY(ticks, gridStroke),
      plot.axisX([...x.ticks], { label: null, tickFormat: String, tickSize: 3, anchor: 'bottom' }),
      plot.axisY(ticks, { label: null, tickSize: 0, tickFormat: formatTick }),
      plot.text([x.label], {
        frameAnchor: 'bottom',
        fx: 1,
        fy: rows - 1,
        dy: 34,
        dx: 70,
        fill: colour('muted'),
      }),
      plot.text([y.label], {
        ...{ frameAnchor: 'top-left', textAnchor: 'start', fx: 0, fy: 0 },
        ...{ dx: -50, dy: -32, fill: colour('muted') },
      }),
      plot.text(placed, {
        ...facet,
        ...{ text: 'name', frameAnchor: 'top-left', textAnchor: 'start', dy: -14, fontWeight: 600 },
      }),
      ...lines.map(({ points, order, stepped, dashed, fx, fy }) =>
        plot.line(points, {
          ...{ x: 'x', y: 'y', fx: () => fx, fy: () => fy, curve: stepped ? 'step-after' : 'linear' },
          stroke: colour(`ramp-${palest + Math.min(shades - 1, Math.floor(order * shades))}`),
          ...(dashed ? { strokeDasharray: '3,3' } : {}),
          strokeWidth: stepped ? 2 : 1.1,
        }),
      ),
      plot.dot(chosen, { ...facet, x: 'x', y: 'y', r: 2, fill: seriesColour(1) }),
    ],
  })
}
