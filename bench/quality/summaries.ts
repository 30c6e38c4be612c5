/** ROUGE of summaries: a model's, beside those that need no model. */
import { evaluate, Model } from 'flrc'
import { meanRouge } from '#lib/rouge.js'
import type { Bench } from './make.js'
import type { SummaryScores } from './rows.js'

const maxTokens = 60
const firstWords = 20
const constantSentence = 'Person1 and Person2 talk about their plans.'

/** What the dense model writes, by the run that asks: the texts themselves are never stored. */
const denseResults = new WeakMap<Bench, Promise<evaluate.SummarizeResult>>()

function summarize(
  model: Model,
  { inputs, limits, signal }: Bench,
  reference?: readonly evaluate.SummaryReference[],
) {
  const options = { limit: limits.summaryLimit, maxTokens, reference, signal }
  return evaluate.summarize(model, inputs.summaries ?? [], options)
}

async function writeDense(bench: Bench): Promise<evaluate.SummarizeResult> {
  const dense = await Model.load(bench.source, { dtype: bench.dtype, signal: bench.signal })
  try {
    return await summarize(dense, bench)
  } finally {
    dense.dispose()
  }
}

function denseResult(bench: Bench): Promise<evaluate.SummarizeResult> {
  const result = denseResults.get(bench) ?? writeDense(bench)
  denseResults.set(bench, result)
  return result
}

/** Against people's summaries and against the dense model's. */
export async function summaryScores(model: Model, bench: Bench): Promise<SummaryScores> {
  const { outputs } = await denseResult(bench)
  const { rouge1, rouge2, rougeL, samples, intervals, reference } = await summarize(model, bench, outputs)
  return {
    ...{ rouge1, rouge2, rougeL, samples, interval: intervals.rougeL },
    ...(reference && { dense: { rougeL: reference.rougeL, interval: reference.intervals.rougeL } }),
  }
}

/** A summary that takes no understanding. */
export function trivialSummary(summary: 'first words' | 'constant', dialogue: string): string {
  return summary === 'constant' ? constantSentence : dialogue.split(/\s+/).slice(0, firstWords).join(' ')
}

/** What such summaries are worth. */
export function trivialScores(summary: 'first words' | 'constant', bench: Bench): SummaryScores {
  const { inputs, limits } = bench
  const samples = (inputs.summaries ?? []).slice(0, limits.summaryLimit)
  const scores = samples.map(({ dialogue = '', summaries = [] }) =>
    meanRouge(summaries, trivialSummary(summary, dialogue)),
  )
  const [rouge1, rouge2, rougeL] = (['rouge1', 'rouge2', 'rougeL'] as const).map((key) =>
    evaluate.bootstrapMean(scores.map((score) => score[key])),
  )
  return {
    rouge1: rouge1?.mean ?? 0,
    rouge2: rouge2?.mean ?? 0,
    rougeL: rougeL?.mean ?? 0,
    samples: samples.length,
    interval: rougeL?.interval ?? [0, 0],
  }
}
