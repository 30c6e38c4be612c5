import { projectionKinds } from '../../format/projections.js'
import { mostPanels, ranksPlot } from '../../plots.js'
import { byLayer, type ReportContents } from '../contents.js'
import type { Figure, Section } from '../html.js'

/** The rank of every projection at every level. */
export async function ranksSection(contents: ReportContents): Promise<Section> {
  const { inspection, projections } = contents
  const { levels } = inspection
  const dense = projections.filter(({ ranks }) => ranks[0] === 'dense')
  const shown =
    levels.length > mostPanels ? ` The first ${mostPanels} of ${levels.length} levels are drawn.` : ''
  const seen = `${dense.length} of ${projections.length} projections are left dense (d).`
  const figure: Figure = {
    svg: await ranksPlot(
      { id: 'ranks-figure', title: 'Rank map', description: `Rank by layer and projection. ${seen}${shown}` },
      projections,
      levels.map(({ budget }) => budget),
    ),
    ramp: { from: 'nothing read', to: 'as much as dense' },
    caption:
      'Rank of each projection (rows) in each layer (columns), written in the cell where there is room. The further ' +
      `along the scale its colour is, the larger the share of the projection's parameters that is read. ${seen}${shown}`,
    table: {
      caption: `Ranks${levels.length > 1 ? ', level 0 first' : ''}; d is dense`,
      columns: ['layer', ...projectionKinds],
      rows: byLayer(projections, ({ ranks }) => [...new Set(ranks)].join(' > ').replaceAll('dense', 'd')),
    },
  }
  return {
    id: 'ranks',
    title: 'Where the rank went',
    lead:
      'Each projection got the rank that the loss it saves is worth; what would have cost as much as the dense ' +
      'matrix stayed dense. No rank grows from one level to the next.',
    figures: [figure],
  }
}
