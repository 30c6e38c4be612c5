import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseHTML } from 'linkedom'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { calibrate } from '#lib/calibrate.js'
import { storeSchedule } from '#lib/checkpoint/schedule.js'
import { compress } from '#lib/compress.js'
import { Model } from '#lib/public-model.js'
import { escapeHtml, percent, tableHtml } from '#lib/report/html.js'
import { readQuality } from '#lib/report/quality.js'
import { reportHtml } from '#lib/report.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { repository, temporaryDirectory } from './support/paths.js'

const folder = temporaryDirectory()
const at = (...parts: string[]) => path.join(folder, ...parts)
const calibrationText = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const qualityFile = repository('bench', 'results', 'quality-tiny.json')

const dense = await Model.load(tinyModel)
const calibration = await calibrate(dense, {
  calibration: [calibrationText],
  samples: 4,
  seqLen: 128,
  heldOut: 2,
})

/** A checkpoint of the embedded model in `folder`. */
async function made(name: string, levels: readonly number[], method: 'curve' | 'uniform' = 'curve') {
  const small = await compress(dense, { keep: levels[0] ?? 1, levels, method, calibration })
  await small.save(at(name))
  small.dispose()
  return at(name)
}

const threeLevels = await made('three', [0.8, 0.7, 0.6])

/** The page parsed, having checked what every report must have. */
function parsed(html: string) {
  const { document } = parseHTML(html)
  assert.is(document.documentElement.getAttribute('lang'), 'en')
  assert.is(document.querySelectorAll('script, link, img, iframe, object, embed, base').length, 0)
  for (const element of document.querySelectorAll('[src], [href], [xlink\\:href], [srcset], [style*=url]')) {
    assert.match(element.getAttribute('href') ?? '', /^#[a-z-]+$/, element.outerHTML.slice(0, 100))
  }
  assert.not.match(html, /https?:|@import|url\(|NaN|undefined|Infinity|\[object/)
  const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id)
  assert.is(new Set(ids).size, ids.length, 'no id twice')
  for (const link of document.querySelectorAll('a[href]')) {
    assert.ok(document.getElementById((link.getAttribute('href') ?? '').slice(1)), 'a link leads somewhere')
  }
  for (const section of document.querySelectorAll('section')) {
    assert.ok(document.getElementById(section.getAttribute('aria-labelledby') ?? '')?.textContent)
    assert.ok(section.querySelector('figure'), `${section.id} has no empty frame`)
  }
  for (const figure of document.querySelectorAll('figure')) {
    assert.ok((figure.querySelector('figcaption')?.textContent ?? '').length > 20)
    const table = figure.querySelector('table')
    assert.ok((table?.querySelectorAll('tbody tr').length ?? 0) > 0, 'a table with rows beside every figure')
    assert.ok(table?.querySelector('caption')?.textContent)
    const columns = table?.querySelectorAll('th[scope=col]').length
    for (const row of table?.querySelectorAll('tbody tr') ?? []) {
      assert.is(row.querySelectorAll('th[scope=row]').length, 1)
      assert.is(row.children.length, columns)
    }
    const svg = figure.querySelector('svg')
    if (!svg) continue
    assert.is(svg.getAttribute('role'), 'img')
    for (const id of (svg.getAttribute('aria-labelledby') ?? '').split(' ')) {
      assert.ok(document.getElementById(id)?.textContent, `${id} names the figure`)
    }
  }
  const sections = [...document.querySelectorAll('section')].map(({ id }) => id)
  return { document, sections }
}

/** Cells of the table of a section's only or first figure. */
function rowsOf(document: ReturnType<typeof parsed>['document'], section: string): string[][] {
  const rows = document.querySelector(`#${section} table`)?.querySelectorAll('tbody tr') ?? []
  return [...rows].map((row) => [...row.children].map(({ textContent }) => textContent ?? ''))
}

const page = suite('the page')

page('has a section for all that is known, and says the checkpoint numbers', async () => {
  const { document, sections } = parsed(await reportHtml(threeLevels, [qualityFile]))
  assert.equal(sections, ['size', 'scores', 'ranks', 'curves', 'budgets', 'time', 'origin'])
  const plan = JSON.parse(readFileSync(path.join(threeLevels, 'flrc-plan.json'), 'utf8'))
  const { flrc } = JSON.parse(readFileSync(path.join(threeLevels, 'config.json'), 'utf8'))
  assert.equal(
    rowsOf(document, 'size').map((row) => row[3]),
    [plan.heldOut.dense, ...plan.heldOut.levels].map(({ perplexity }) => perplexity.toFixed(3)),
  )
  const ranks = rowsOf(document, 'ranks')
  assert.is(ranks.length, 6)
  const down = flrc.levels.map(
    ({ ranks: of }: { ranks: Record<string, number> }) => of['model.layers.2.mlp.down_proj'],
  )
  assert.is(ranks[2]?.[7], [...new Set(down)].join(' > '))
  const scores = rowsOf(document, 'scores').flatMap((row) => row.slice(1).map(Number))
  assert.is(Math.max(...scores), 100)
  assert.is(document.querySelectorAll('#methods-figure-title').length, 1)
  assert.match(document.querySelector('#time table')?.textContent ?? '', /truncation curves/)
})

page('draws the calibrated schedule, unless it follows the text', async () => {
  const directory = await made('scheduled', [0.8, 0.6])
  await storeSchedule(directory, 'step:.8:.6:24')
  const drawn = parsed(await reportHtml(directory)).document
  assert.equal(rowsOf(drawn, 'budgets').at(-1), ['step:.8:.6:24', '0.650', '0.650', '24', '72'])
  assert.match(drawn.querySelector('#budgets svg')?.textContent ?? '', /calibrated/)
  await storeSchedule(directory, 'adaptive:.8:.6')
  const { document } = parsed(await reportHtml(directory))
  assert.is(rowsOf(document, 'budgets').length, rowsOf(drawn, 'budgets').length - 1)
  assert.match(document.querySelector('#budgets')?.textContent ?? '', /adaptive:.8:.6, whose level follows/)
})

page('names the score that ranks went by', async () => {
  const small = await compress(dense, { keep: 0.8, method: 'fisher', score: 'taylor', calibration })
  await small.save(at('taylor'))
  small.dispose()
  const { document } = parsed(await reportHtml(at('taylor')))
  const told = document.querySelector('#scores')?.textContent ?? ''
  assert.match(told, /the size of each weight times its gradient[\s\S]*score: taylor/)
  assert.not.match(told, /square|Figure 2/)
  const { stdout } = await runCli(['inspect', at('taylor')])
  assert.match(stdout, /score \(taylor\)/)
  assert.not.match(stdout, /Fisher/)
})

page('leaves out what it knows nothing of', async () => {
  const one = await made('one', [0.5], 'uniform')
  for (const file of ['flrc-run.json', 'flrc-plan.json']) rmSync(path.join(one, file))
  assert.equal(parsed(await reportHtml(one)).sections, ['ranks'])
})

page('recovery and ROUGE where they are given', async () => {
  const point = (step: number, kl: number) => ({
    step,
    tokens: step * 10,
    minutes: step / 10,
    kl: [kl, 2 * kl, 3 * kl],
    loss: [3, 3, 3],
  })
  const directory = await made('recovered', [0.8, 0.7, 0.6])
  const file = path.join(directory, 'flrc-plan.json')
  const plan = JSON.parse(readFileSync(file, 'utf8'))
  const recovery = { curve: [point(0, 0.5), point(10, 0.25)], best: point(10, 0.25), heldOut: 2 }
  writeFileSync(file, JSON.stringify({ ...plan, recovery }))
  const people = { mean: 0.2, interval: [0.15, 0.25] as [number, number] }
  const models = [
    {
      series: 'curve',
      label: 'keep 0.8',
      keep: 0.8,
      summaries: { people, budget: 0.8, meanActiveBudget: 0.75 },
    },
    { series: 'no model', label: 'first 20 words', keep: 1, summaries: { people: { mean: 0.3 } } },
  ]
  const { document, sections } = parsed(await reportHtml(directory, { caption: 'By hand.', models }))
  assert.ok(sections.includes('recovery') && sections.includes('rouge'))
  assert.match(document.querySelector('#origin')?.textContent ?? '', /differ from run to run/)
  assert.not.match(document.querySelector('#origin')?.textContent ?? '', /byte for byte/)
  assert.match(
    document.querySelector('#recovery figcaption')?.textContent ?? '',
    /level 0 from 0.5000 to 0.2500/,
  )
  assert.equal(rowsOf(document, 'rouge')[0], ['curve', 'keep 0.8', '0.750', '0.200', '0.150', '0.250'])
  assert.match(document.querySelector('#rouge svg')?.textContent ?? '', /first 20 words/)
})

page('writes what comes from files as text', () => {
  assert.is(escapeHtml('<a href="x">&\''), '&lt;a href=&quot;x&quot;&gt;&amp;&#39;')
  assert.match(tableHtml({ caption: '<b>', columns: ['a'], rows: [['<i>']] }), /&lt;i&gt;/)
  assert.equal([0.012, 0.5, 1].map(percent), ['1.2%', '50.0%', '100%'])
})

const card = suite('the model card')

card('carries the measured table and two plots that lie beside it', async () => {
  const text = readFileSync(path.join(threeLevels, 'README.md'), 'utf8')
  const { heldOut } = JSON.parse(readFileSync(path.join(threeLevels, 'flrc-plan.json'), 'utf8'))
  assert.ok(text.includes('| model | active budget | MB | perplexity |'))
  for (const [level, { perplexity }] of heldOut.levels.entries()) {
    assert.match(text, new RegExp(`\\| level ${level} \\|.*\\| ${perplexity.toFixed(2)} \\|`))
  }
  const plots = [...text.matchAll(/!\[([^\]]+)\]\(([\w-]+\.svg)\)/g)].map(([, , file = '']) => file)
  assert.equal(plots, ['flrc-scores.svg', 'flrc-ranks.svg'])
  for (const file of plots) {
    const svg = readFileSync(path.join(threeLevels, file), 'utf8')
    assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" /)
    assert.not.match(svg.replaceAll('http://www.w3.org/2000/svg', ''), /https?:|<script|NaN|undefined/)
  }
})

card('equal runs write equal files, but for what they took', async () => {
  const again = await made(path.join('again', 'three'), [0.8, 0.7, 0.6])
  const files = readdirSync(threeLevels)
  assert.equal(readdirSync(again), files)
  for (const file of files.filter((name) => name !== 'flrc-run.json')) {
    assert.ok(readFileSync(path.join(again, file)).equals(readFileSync(path.join(threeLevels, file))), file)
  }
})

const data = suite('quality rows')

data('every row of the benchmark has its place', async () => {
  const { models, caption } = await readQuality([qualityFile])
  const rows = JSON.parse(readFileSync(qualityFile, 'utf8')).rows as unknown[]
  assert.is(models.length, rows.length)
  assert.match(caption, /^tiny \(weights in BF16\)/)
  const named = models.map(({ series, label }) => `${series}: ${label}`)
  assert.ok(named.includes('dense: int4') && named.includes('dense: int3'))
  assert.ok(named.includes('curve, int8 factors: keep 0.9, two-sided, labels model, pivoted, on text'))
})

data(
  'dense int8 and int4 are drawn as compress rounds them, and to the nearest where nothing else is',
  async () => {
    const denseOf = async (file: string) => {
      const { models } = await readQuality([file])
      return models.filter(({ series, label }) => series === 'dense' && label.startsWith('int4'))
    }
    const { version, settings, rows } = JSON.parse(readFileSync(qualityFile, 'utf8')) as {
      version: number
      settings: object
      rows: { model: { kind: string; dtype?: string; keep?: number }; perplexity: number }[]
    }
    const kept = rows.find(
      ({ model: { kind, dtype, keep } }) => kind === 'low-rank' && dtype === 'int4' && keep === 1,
    )
    const both = await denseOf(qualityFile)
    assert.equal(
      both.filter(({ aside }) => aside !== true).map(({ label, perplexity }) => [label, perplexity]),
      [['int4', kept?.perplexity]],
    )
    assert.equal(
      both.filter(({ aside }) => aside === true).map(({ label }) => label),
      ['int4, to the nearest'],
    )
    writeFileSync(
      at('cut.json'),
      JSON.stringify({ version, settings, rows: rows.filter((row) => row !== kept) }),
    )
    assert.equal(
      (await denseOf(at('cut.json'))).map(({ label, aside }) => [label, aside]),
      [['int4', false]],
    )
  },
)

data('rows of progressive decoding are lines by what falls, at their mean active budgets', async () => {
  const file = repository('bench', 'results', 'progressive-smollm2-135m.json')
  const { models, caption, summariesCaption } = await readQuality([file])
  assert.is(caption, '', 'no perplexities, so nothing of windows')
  assert.match(summariesCaption ?? '', /^Dialogues of dialogsum.test.jsonl; .* half dialogues/)
  const { rows } = JSON.parse(readFileSync(file, 'utf8')) as {
    rows: {
      name: string
      budget?: number
      scores: { written: { dense: { rougeL: number[] }; spent: { tokens: number[]; budget: number[] } } }
    }[]
  }
  const at = rows.findIndex(({ name, budget }) => name === 'step, dense and one level' && budget === 0.8)
  const { dense = { rougeL: [] }, spent = { tokens: [], budget: [] } } = rows[at]?.scores.written ?? {}
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  const own = models[at]
  assert.equal([own?.series, own?.summaries?.budget], ['dense, then one level', 0.8])
  assert.ok(Math.abs((own?.summaries?.dense?.mean ?? 0) - sum(dense.rougeL) / dense.rougeL.length) < 1e-12)
  const read = sum(spent.budget.map((value, sample) => value * (spent.tokens[sample] ?? 0)))
  assert.ok(Math.abs((own?.summaries?.meanActiveBudget ?? 0) - read / sum(spent.tokens)) < 1e-12)
  const drawn = new Set(models.filter(({ aside }) => aside !== true).map(({ series }) => series))
  const lines = [
    'curve, static',
    'dense',
    'dense, then one level',
    'earlier methods, static',
    'falling, 2 levels',
  ]
  assert.equal([...drawn].sort(), [...lines, 'falling, 5 levels', 'falling, two models', 'no model'])
  const { document } = parsed(await reportHtml(threeLevels, { caption, models }))
  const spentText = own?.summaries?.meanActiveBudget?.toFixed(3)
  const cells = rowsOf(document, 'rouge').find(
    ([name, , budget]) => name === own?.series && budget === spentText,
  )
  assert.is(cells?.[3], own?.summaries?.dense?.mean.toFixed(3))
  const text = document.querySelector('#rouge svg')?.textContent ?? ''
  for (const line of lines) assert.ok(text.includes(line), `${line} is in the figure`)
})

data('rows of another model, and other files, are refused', async () => {
  const other = JSON.parse(readFileSync(qualityFile, 'utf8'))
  other.settings.modelSha256 = '0'.repeat(64)
  writeFileSync(at('other.json'), JSON.stringify(other))
  await throwsFlrcError(() => reportHtml(threeLevels, [at('other.json')]), {
    code: 'E_USAGE',
    message: /of another model/,
  })
  await throwsFlrcError(() => readQuality([qualityFile, at('other.json')]), {
    code: 'E_USAGE',
    message: /different models/,
  })
  writeFileSync(at('none.json'), '{"rows": [1]}')
  await throwsFlrcError(() => readQuality([at('none.json')]), { code: 'E_USAGE', file: at('none.json') })
  await throwsFlrcError(() => readQuality([at('missing.json')]), { code: 'E_NOT_FOUND' })
})

data('a broken plan or a model that is no checkpoint says so', async () => {
  await throwsFlrcError(() => reportHtml(tinyModel), { code: 'E_USAGE', file: tinyModel })
  const broken = await made('broken', [0.5])
  const file = path.join(broken, 'flrc-plan.json')
  writeFileSync(file, '{"scores": {"a": "b"}}')
  await throwsFlrcError(() => reportHtml(broken), { code: 'E_MODEL_FORMAT', file })
})

const command = suite('flrc report')

command('writes one file, and replaces one only when told to', async () => {
  const args = ['report', 'three', '-o', 'report.html', '--quality', qualityFile]
  const first = await runCli([...args, '--json'], { cwd: folder })
  assert.is(first.code, 0, first.stderr)
  const html = readFileSync(at('report.html'), 'utf8')
  assert.equal(JSON.parse(first.stdout), { report: 'report.html', bytes: Buffer.byteLength(html) })
  parsed(html)
  const again = await runCli(args, { cwd: folder })
  assert.is(again.code, 1)
  assert.match(again.stderr, /^flrc: E_EXISTS: report.html: .*--overwrite/)
  writeFileSync(at('report.html'), 'old')
  assert.is((await runCli([...args, '--overwrite'], { cwd: folder })).code, 0)
  assert.is(readFileSync(at('report.html'), 'utf8'), html, 'equal inputs, equal reports')
  const folderInPlace = await runCli(['report', 'three', '-o', 'three', '--overwrite'], { cwd: folder })
  assert.match(folderInPlace.stderr, /E_EXISTS/)
  assert.is((await runCli(['report', 'three'], { cwd: folder })).code, 2)
  const noRows = await runCli(['report', 'three', '-o', 'x', '--quality', 'report.html'], { cwd: folder })
  assert.match(noRows.stderr, /E_USAGE: report.html: not valid JSON .*; give a file that npm run bench:quality/)
})

command.after(() => {
  calibration.dispose()
  dense.dispose()
})

for (const tests of [page, card, data, command]) tests.run()
