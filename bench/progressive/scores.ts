/** What a row is worth on every sample, and the means with their intervals. */
import { evaluate } from 'flrc'
import { weightedMean } from '#lib/statistics/mean.js'
import type { Interval, SummaryScores } from '../quality/rows.js'

const rouges = ['rouge1', 'rouge2', 'rougeL'] as const

/** Lists have a figure a sample, in the samples' order; samples are added as they are measured. */
export interface Scores {
  ids: string[]
  /** Of the first samples, perhaps not of all. */
  along?: AlongScores
  written?: WrittenScores
}

/** Along the dense model's own tokens. */
export interface AlongScores {
  /** Tokens compared. */
  tokens: number[]
  /** Means over a sample's tokens: KL in nats, the share of tokens agreed on, the active budget. */
  kl: number[]
  agreement: number[]
  budget: number[]
  /** By step, over the samples that reach it: how many these are, and sums over them. */
  byStep: { samples: number[]; kl: number[]; agreement: number[]; budget: number[] }
}

/** Of the texts that were written. */
export interface WrittenScores {
  /** F-measures against people's summaries. */
  people: Record<(typeof rouges)[number], number[]>
  /** Against what the dense model wrote. */
  dense: { rougeL: number[] }
  /** Absent where no model wrote them. */
  spent?: {
    /** Tokens generated. */
    tokens: number[]
    /** Mean active budget of a sample's tokens; the first comes from prefill, at level 0. */
    budget: number[]
    /** Mean weight bytes read for each of a sample's tokens. */
    bytes: number[]
  }
}

export type Quality = Omit<evaluate.AgreementResult, 'tokens'>

export interface WrittenFigures extends SummaryScores {
  /** Means over all tokens. */
  spent?: { budget: number; bytes: number; tokens: number }
}

export interface Figures {
  quality?: Quality
  summaries?: WrittenFigures
}

/** The first with the second's samples behind its own; what the second lacks is known of the first's alone. */
export function joined(first: Scores | undefined, second: Scores): Scores {
  return first === undefined ? second : (joinedLists(first, second) as unknown as Scores)
}

interface Lists {
  [name: string]: (number | string)[] | Lists | undefined
}

/** Lists one behind the other, except those by step, which are sums. */
function joinedLists(first: object, second: object, bySum = false): Lists {
  const [a, b] = [first as Lists, second as Lists]
  return Object.fromEntries(
    Object.keys(a).map((name) => {
      if (b[name] === undefined) return [name, a[name]]
      const [mine = [], theirs = []] = [a[name], b[name]]
      if (!Array.isArray(mine) || !Array.isArray(theirs))
        return [name, joinedLists(mine, theirs, name === 'byStep')]
      return [name, bySum ? summed(mine as number[], theirs as number[]) : [...mine, ...theirs]]
    }),
  )
}

function summed(a: readonly number[], b: readonly number[]): number[] {
  return Array.from({ length: Math.max(a.length, b.length) }, (_, at) => rounded((a[at] ?? 0) + (b[at] ?? 0)))
}

/** Six decimals: what a sum over hundreds of samples leaves of them is far below any interval. */
export function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6
}

export function figuresOf({ along, written }: Scores): Figures {
  return {
    ...(along && { quality: qualityOf(along) }),
    ...(written && { summaries: writtenFigures(written) }),
  }
}

function qualityOf({ tokens, kl, agreement, budget, byStep }: AlongScores): Quality {
  const [divergence, agreed] = [kl, agreement].map((list) => evaluate.bootstrapMean(list, { weights: tokens }))
  const at = (sums: readonly number[], step: number) => (sums[step] ?? 0) / (byStep.samples[step] ?? 1)
  return {
    agreement: agreed?.mean ?? 0,
    meanKl: divergence?.mean ?? 0,
    byStep: byStep.samples.map((samples, step) => ({
      ...{ step, samples },
      agreement: at(byStep.agreement, step),
      kl: at(byStep.kl, step),
      activeBudget: at(byStep.budget, step),
    })),
    meanActiveBudget: weightedMean(budget, tokens),
    samples: tokens.length,
    intervals: { agreement: agreed?.interval ?? [0, 0], meanKl: divergence?.interval ?? [0, 0] },
  }
}

function writtenFigures({ people, dense, spent }: WrittenScores): WrittenFigures {
  const [rouge1, rouge2, rougeL] = rouges.map((name) => evaluate.bootstrapMean(people[name]))
  const against = evaluate.bootstrapMean(dense.rougeL)
  return {
    ...{ rouge1: rouge1?.mean ?? 0, rouge2: rouge2?.mean ?? 0, rougeL: rougeL?.mean ?? 0 },
    ...{ samples: people.rougeL.length, interval: rougeL?.interval ?? [0, 0] },
    dense: { rougeL: against.mean, interval: against.interval },
    ...(spent && {
      spent: {
        budget: weightedMean(spent.budget, spent.tokens),
        bytes: weightedMean(spent.bytes, spent.tokens),
        tokens: spent.tokens.reduce((sum, count) => sum + count, 0) / spent.tokens.length,
      },
    }),
  }
}

export type Measure = 'dense' | 'people' | 'kl' | 'agreement'

const listOf: Record<Measure, (scores: Scores) => number[] | undefined> = {
  dense: ({ written }) => written?.dense.rougeL,
  people: ({ written }) => written?.people.rougeL,
  kl: ({ along }) => along?.kl,
  agreement: ({ along }) => along?.agreement,
}

/**
 * The mean of a - b over the samples that both have, by paired bootstrap; KL and agreement weigh a sample by its
 * tokens. Undefined where one of the two was not measured.
 */
export function differenceOf(
  measure: Measure,
  a: Scores,
  b: Scores,
): { mean: number; interval: Interval; base: number; samples: number } | undefined {
  const [ours, theirs] = [listOf[measure](a), listOf[measure](b)]
  if (ours === undefined || theirs === undefined) return undefined
  const samples = Math.min(ours.length, theirs.length)
  const [first, second] = [ours.slice(0, samples), theirs.slice(0, samples)]
  const perToken = measure === 'kl' || measure === 'agreement'
  const weights = perToken ? a.along?.tokens.slice(0, samples) : undefined
  const { mean, interval } = evaluate.pairedDifference(first, second, { weights })
  return { mean, interval, base: weightedMean(second, weights ?? second.map(() => 1)), samples }
}
