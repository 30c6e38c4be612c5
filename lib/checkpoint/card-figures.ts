import { costOfRanks, type FactorStorage, type ProjectionShape } from '../allocate.js'
import type { StoredLevel } from '../format/types.js'
import { ranksPlot, scoresPlot, standalone } from '../plots.js'
import type { CardFigure, MeasuredTable } from './card.js'
import { type HeldOutPerplexity, heldOutSource } from './plan.js'

interface Drawn {
  projections: readonly (ProjectionShape & { layer: number; kind: string })[]
  levels: readonly StoredLevel[]
  storage: FactorStorage
  scores: Readonly<Record<string, number>>
}

/** The plots of a model card: importance scores, and where the rank went. */
export async function cardFigures({ projections, levels, storage, scores }: Drawn): Promise<CardFigure[]> {
  const plotted = projections.map(({ name, layer, kind, rows, cols }) => {
    const ranks = levels.map((level) => level.ranks[name] ?? 'dense')
    const costs = costOfRanks({ rows, cols }, ranks, storage)
    return { layer, kind, score: scores[name], ranks, shares: costs.map((cost) => cost / (rows * cols)) }
  })
  const figures: CardFigure[] = []
  if (plotted.some(({ score = 0 }) => score > 0)) {
    const alt = 'Importance score of each projection over the layers, as a share of the largest'
    const text = {
      id: 'scores',
      title: alt,
      description: 'A line for each kind of projection, logarithmic scale.',
    }
    figures.push({ file: 'flrc-scores.svg', alt, svg: standalone(await scoresPlot(text, plotted)) })
  }
  const alt = 'Rank of each projection in each layer; d is dense'
  const text = {
    id: 'ranks',
    title: alt,
    description: 'The deeper the colour, the more of the projection is read.',
  }
  const budgets = levels.map(({ budget }) => budget)
  figures.push({ file: 'flrc-ranks.svg', alt, svg: standalone(await ranksPlot(text, plotted, budgets)) })
  return figures
}

/** What was measured when the checkpoint was made, as the card's table. */
export function heldOutTable(
  heldOut: HeldOutPerplexity,
  stored: { bytes: number; budgets: readonly number[] },
): MeasuredTable {
  const { dense, levels } = heldOut
  const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1)
  return {
    caption: `${heldOutSource(heldOut)} MB of all tensors.`,
    columns: ['model', 'active budget', 'MB', 'perplexity'],
    rows: [
      ['dense', dense.budget?.toFixed(4) ?? '1', megabytes(dense.bytes), dense.perplexity.toFixed(2)],
      ...levels.map(({ perplexity }, level) => [
        `level ${level}`,
        stored.budgets[level]?.toFixed(4) ?? '',
        level === 0 ? megabytes(stored.bytes) : '',
        perplexity.toFixed(2),
      ]),
    ],
  }
}
