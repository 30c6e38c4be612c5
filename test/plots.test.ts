import { parseHTML } from 'linkedom'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { rampClass, rampClasses } from '#lib/plots/colours.js'
import { spread } from '#lib/plots/series.js'
import { formatTick, logTicks, wholeTicks } from '#lib/plots/ticks.js'
import { barsPlot, coloursOn, mapPlot, panelsPlot, seriesPlot, standalone } from '#lib/plots.js'

const text = { id: 'figure', title: 'A <title>', description: 'What one sees & where.' }

/** The SVG parsed, having checked what every figure must have. */
function parsed(svg: string) {
  const { document } = parseHTML(`<!doctype html><body>${svg}</body>`)
  const root = document.querySelector('svg')
  assert.ok(root, svg.slice(0, 200))
  assert.is(root.getAttribute('role'), 'img')
  assert.is(root.getAttribute('aria-labelledby'), 'figure-title figure-desc')
  assert.is(document.getElementById('figure-title')?.textContent, text.title)
  assert.is(document.getElementById('figure-desc')?.textContent, text.description)
  assert.not.match(svg, /NaN|undefined|Infinity|href|url\(/)
  const known = coloursOn('light')
  for (const [, name = ''] of svg.matchAll(/var\(--([\w-]+)\)/g)) {
    assert.ok(name in known || name === 'plot-background', `the variable --${name}`)
  }
  return root
}

const curves = [
  { name: 'curve', points: [1, 10, 100].map((y, x) => ({ x, y, low: y * 0.9, high: y * 1.1 })) },
  { name: 'uniform', points: [2, 20, 200].map((y, x) => ({ x, y, label: `at ${x}` })), dashed: true },
]

test('series: a line, symbols, intervals and a name each, and names of the references', async () => {
  const root = parsed(
    await seriesPlot({
      ...text,
      x: { label: 'step', whole: true },
      y: { label: 'loss', type: 'log' },
      series: curves,
      references: [{ name: 'dense', y: 5 }],
    }),
  )
  const words = [...root.querySelectorAll('text')].map((element) => element.textContent)
  for (const word of ['step', 'loss', 'curve', 'uniform', 'dense', 'at 2'])
    assert.ok(words.includes(word), word)
  assert.is(root.querySelectorAll('[aria-label=line] path').length, 2)
  assert.is(root.querySelectorAll('[aria-label=dot] circle').length, 3)
})

test('labels of points stand where they have room', async () => {
  const label = 'as it was loaded'
  const points = [0, 1, 2].map((x) => ({ x, y: x, label: `${label} ${x}` }))
  const series = [{ name: 'one', points, scattered: true }]
  const root = parsed(await seriesPlot({ ...text, names: 'top', x: { label: 'x' }, y: { label: 'y' }, series }))
  const anchors = points.map(({ label: own }) =>
    [...root.querySelectorAll('text')]
      .find((element) => element.textContent === own)
      ?.closest('[text-anchor]')
      ?.getAttribute('text-anchor'),
  )
  assert.equal(anchors, ['start', 'start', 'end'])
})

test('series named above the plot wrap into rows', async () => {
  const many = Array.from({ length: 8 }, (_, index) => ({
    name: `a method with a long name ${index}`,
    points: [{ x: index, y: index + 1 }],
    scattered: true,
  }))
  const root = parsed(
    await seriesPlot({ ...text, names: 'top', x: { label: 'MB' }, y: { label: 'perplexity' }, series: many }),
  )
  const words = [...root.querySelectorAll('text')].filter((element) =>
    /long name/.test(element.textContent ?? ''),
  )
  assert.is(words.length, 8)
  const rows = new Set(words.map((element) => element.parentElement?.getAttribute('transform')?.split(',')[1]))
  assert.ok(rows.size >= 3, `${rows.size} rows`)
})

test('a map has a cell each, its text where there is room, and deeper colours for larger shares', async () => {
  const panel = (name: string, columns: number) => ({
    name,
    cells: Array.from({ length: columns }, (_, column) => ({
      column,
      row: 'q',
      share: column / columns,
      text: 'r9',
    })),
  })
  const draw = (columns: number) =>
    mapPlot({ ...text, columnLabel: 'layer', rows: ['q'], panels: [panel('a', columns), panel('b', columns)] })
  const small = parsed(await draw(10))
  assert.is(small.querySelectorAll('rect').length, 20)
  assert.is([...small.querySelectorAll('text')].filter(({ textContent }) => textContent === 'r9').length, 20)
  const large = parsed(await draw(100))
  assert.is(large.querySelectorAll('rect').length, 200)
  assert.is([...large.querySelectorAll('text')].filter(({ textContent }) => textContent === 'r9').length, 0)
  assert.equal([0, 0.5, 1].map(rampClass), [0, rampClasses >> 1, rampClasses - 1])
})

test('bars and panels', async () => {
  const bars = parsed(await barsPlot({ ...text, bars: [{ name: 'calibrate', value: 2, text: '2 s' }] }))
  assert.is(bars.querySelectorAll('rect').length, 1)
  const line = { order: 0.5, chosen: { x: 0.5, y: 0.1 }, points: [0, 0.5, 1].map((x) => ({ x, y: 10 ** -x })) }
  const panels = Array.from({ length: 7 }, (_, index) => ({ name: `kind ${index}`, lines: [line, line] }))
  const x = { label: 'rank', domain: [0, 1] as [number, number], ticks: [0, 1] }
  const y = { label: 'loss', type: 'log' as const, domain: [0.01, 1] as [number, number] }
  const root = parsed(await panelsPlot({ ...text, panels, x, y }))
  assert.is(root.querySelectorAll('[aria-label=line] path').length, 14)
  assert.is(root.querySelectorAll('[aria-label=dot] circle').length, 14)
})

test('a file of its own carries its colours and its paper', async () => {
  const svg = standalone(await seriesPlot({ ...text, x: { label: 'x' }, y: { label: 'y' }, series: curves }))
  assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" /)
  assert.not.match(svg.replaceAll('var(--plot-background)', ''), /var\(/)
  assert.match(svg, /<rect width="100%" height="100%" fill="#ffffff"\/>/)
})

test('labels keep their distance, their order and their bounds', () => {
  const bounds = { lowest: 0, highest: 100 }
  assert.equal(spread([10, 50, 90], 15, bounds), [10, 50, 90])
  assert.equal(spread([50, 50], 10, bounds), [45, 55])
  assert.equal(spread([55, 50, 52], 10, bounds), [62 + 1 / 3, 42 + 1 / 3, 52 + 1 / 3])
  assert.equal(spread([-5, -5, 120], 10, bounds), [0, 10, 100])
  assert.equal(spread([], 10, bounds), [])
})

test('ticks', () => {
  assert.equal(logTicks([0.9, 120]), [1, 2, 5, 10, 20, 50, 100])
  assert.equal(logTicks([1e-7, 2], 4), [1e-7, 1e-5, 1e-3, 1e-1])
  assert.equal([0.00001, 0.003, 0.25, 1, 40, 1e5, 3e6].map(formatTick), [
    '10⁻⁵',
    '3·10⁻³',
    '0.25',
    '1',
    '40',
    '10⁵',
    '3·10⁶',
  ])
  assert.equal(wholeTicks([0, 29]), [0, 5, 10, 15, 20, 25])
  assert.equal(wholeTicks([0, 5]), [0, 1, 2, 3, 4, 5])
})

/** Relative luminance contrast, as WCAG 2 defines it. */
function contrast(a: string, b: string): number {
  const luminance = (hex: string) => {
    const [r = 0, g = 0, blue = 0] = [1, 3, 5].map((at) => {
      const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue
  }
  const [light = 0, dark = 0] = [luminance(a), luminance(b)].sort((x, y) => y - x)
  return (light + 0.05) / (dark + 0.05)
}

test('text is readable and series stand out, on light and on dark paper', () => {
  for (const where of ['light', 'dark'] as const) {
    const colours = coloursOn(where)
    const paper = colours.paper ?? ''
    for (const name of ['ink', 'muted'])
      assert.ok(contrast(colours[name] ?? '', paper) >= 4.5, `${where} ${name}`)
    for (const [name, colour] of Object.entries(colours)) {
      if (name.startsWith('series-')) assert.ok(contrast(colour, paper) >= 3, `${where} ${name}`)
      if (name.startsWith('ramp-')) {
        assert.ok(contrast(colour, colours[`on-${name}`] ?? '') >= 4.5, `${where} text on ${name}`)
      }
    }
  }
})

test.run()
