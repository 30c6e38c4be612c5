import { parseHTML } from 'linkedom'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { standalone } from '#lib/plots.js'
import { type PlottedRow, progressivePlot } from '../bench/progressive/plot.js'
import { planRows } from '../bench/progressive/rows.js'
import { throwsFlrcError } from './support/flrc-error.js'

const settings = { model: 'model.gguf', prompts: 'test.jsonl', maxTokens: 60 }

/** Every row of the plan with made-up figures: the lower the budget, the worse, and falling rank the best. */
function madeUpRows(summaries: boolean): PlottedRow[] {
  const options = { budgets: [0.9, 0.8, 0.7], span: 0.1, source: 'text', dtype: 'bf16', dev: true } as const
  const plans = planRows({ ...options, summaries, asvd: true })
  return plans.map(({ timed: _, ...plan }, index): PlottedRow => {
    const { budget = 1, model, name } = plan
    const row = { ...plan, schedule: '', keep: budget, storedBytes: 1, prefillBytes: 1, figures: {} }
    if (model.kind === 'trivial') return row
    const meanActiveBudget =
      name.startsWith('level 0') && budget < 1 ? Math.min(0.97, budget + 0.1) : budget - (index % 7) / 1500
    const denseKl: Record<string, number> = { int8: 0.004, int4: 0.06 }
    const worse = { uniform: 6, asvd: 4, energy: 3, fisher: 2, curve: name.includes('static') ? 1 : 0.7 }
    const meanKl =
      model.kind === 'low-rank'
        ? (1.02 - meanActiveBudget) * worse[model.method] * (1 + (index % 5) / 20)
        : (denseKl[model.kind === 'dense' ? model.dtype : 'bf16'] ?? 0)
    const rougeL = 1 / (1 + meanKl)
    const around = (value: number, share: number): [number, number] => [
      value * (1 - share),
      value * (1 + share),
    ]
    const intervals = { meanKl: around(meanKl, 0.15), agreement: around(rougeL, 0.01) }
    const figures: PlottedRow['figures'] = {
      quality: { ...{ agreement: rougeL, meanKl, byStep: [], samples: 200, intervals }, meanActiveBudget },
      ...(summaries && {
        summaries: {
          ...{ rouge1: 0.3, rouge2: 0.1, rougeL: 0.2, samples: 200, interval: [0.19, 0.21] },
          dense: { rougeL, interval: around(rougeL, 0.03) },
        },
      }),
    }
    return { ...row, figures }
  })
}

/** The parsed figure, and its plots. */
async function plotsOf(rows: readonly PlottedRow[]) {
  const svg = standalone(await progressivePlot(rows, settings))
  assert.not.match(svg, /NaN|undefined|Infinity/)
  const { document } = parseHTML(`<!doctype html><body>${svg}</body>`)
  const root = document.querySelector('svg')
  if (!root) throw new Error('no figure')
  assert.match(document.getElementById('progressive-title')?.textContent ?? '', /model\.gguf/)
  assert.match(
    document.getElementById('progressive-desc')?.textContent ?? '',
    /60 tokens.*prompts of test\.jsonl/,
  )
  return { root, plots: [...root.querySelectorAll('g[role=img]')] }
}

type Plot = Awaited<ReturnType<typeof plotsOf>>['root']

const wordsOf = (plot: Plot) => [...plot.querySelectorAll('text')].map(({ textContent }) => textContent ?? '')
const marksOf = (plot: Plot) =>
  // Symbols other than circles are paths; the legend's have no data but a place of their own.
  plot.querySelectorAll('[aria-label=dot] circle, [aria-label=dot] path').length
/** Where intervals stand, pixels. */
const intervalsOf = (plot: Plot) =>
  [...plot.querySelectorAll('[stroke-opacity="0.6"] line')]
    .map((line) => Number(line.getAttribute('x1')))
    .sort((a, b) => a - b)

test('a mark and an interval each row of low rank, named axes, and dense models for reference', async () => {
  const rows = madeUpRows(true)
  const { root, plots } = await plotsOf(rows)
  assert.is(plots.length, 2)
  const drawn = rows.filter(
    ({ model, fall }) => model.kind === 'low-rank' && model.keep < 1 && fall.kind !== 'speculative',
  )
  const [kl, rouge] = plots
  if (!kl || !rouge) throw new Error('no plots')
  assert.is(marksOf(rouge), drawn.length)
  const families = wordsOf(kl).filter((word) => /^(static|falling|rising|prompt)/.test(word))
  assert.is(families.length, 9)
  assert.is(marksOf(kl), drawn.length + families.length)
  for (const plot of plots) {
    const places = intervalsOf(plot)
    assert.is(places.length, drawn.length)
    const apart = places.slice(1).map((place, index) => place - (places[index] ?? 0))
    assert.ok(Math.min(...apart) > 7, `marks ${Math.min(...apart)} pixels apart`)
  }
  for (const plot of plots) {
    assert.ok(
      wordsOf(plot).some((word) =>
        word.startsWith('mean active budget (block parameters read per token / dense)'),
      ),
    )
    assert.ok(wordsOf(plot).includes('dense int4'))
  }
  assert.ok(wordsOf(kl).some((word) => /KL to the dense model, nats/.test(word)))
  assert.ok(wordsOf(rouge).some((word) => /^ROUGE-L against the dense model's own/.test(word)))
  assert.ok(wordsOf(rouge).includes('dense bf16'))
  assert.ok(wordsOf(kl).some((word) => word.endsWith('below the scale: dense bf16 0, dense int8 0.004')))
  assert.match(root.getAttribute('viewBox') ?? '', /^0 0 860 840$/)
  assert.is(rouge.getAttribute('transform'), 'translate(0,420)')
})

test('without summaries KL alone, and a linear axis where some row has a KL of 0', async () => {
  const rows = madeUpRows(false)
  const { plots } = await plotsOf(rows)
  assert.is(plots.length, 1)
  const [exact, ...others] = rows.filter(({ model }) => model.kind === 'low-rank' && model.keep < 1)
  const { quality } = exact?.figures ?? {}
  if (!exact || !quality) throw new Error('no row')
  const intervals = { ...quality.intervals, meanKl: [0, 0] as [number, number] }
  const zero = { ...exact, figures: { quality: { ...quality, meanKl: 0, intervals } } }
  const { plots: linear } = await plotsOf([...rows.slice(0, 3), zero, ...others])
  assert.ok(linear[0] && wordsOf(linear[0]).includes('dense bf16'))
})

test('without measured rows of low rank a message, no empty frame', async () => {
  const unmeasured = madeUpRows(true).map((row) => ({ ...row, figures: {} }))
  const dense = madeUpRows(true).filter(({ model }) => model.kind === 'dense')
  for (const rows of [[], unmeasured, dense]) {
    await throwsFlrcError(() => progressivePlot(rows, settings), {
      code: 'E_NOT_FOUND',
      message: /nothing to plot/,
    })
  }
})

test.run()
