/** Data to SVG text, drawn by Observable Plot without a browser; imports nothing else of the library. */
export { type Bar, type BarsPlot, barsPlot } from './plots/bars.js'
export { colour, coloursOn, neutralStyle, type Paper, rampClasses } from './plots/colours.js'
export { type FigureText, stacked, standalone } from './plots/draw.js'
export { type MapCell, type MapPanel, type MapPlot, mapPlot } from './plots/map.js'
export { type PanelLine, type PanelsPlot, panelsPlot } from './plots/panels.js'
export { mostPanels, type PlottedProjection, ranksPlot, scoresPlot } from './plots/projections.js'
export {
  type Axis,
  type Reference,
  type Series,
  type SeriesPlot,
  type SeriesPoint,
  seriesPlot,
  spread,
} from './plots/series.js'
