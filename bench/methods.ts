/**
 * The table of allocation methods: `npm run bench -- methods MODEL --calibration FILE --text FILE`.
 *
 * One calibration serves all methods and keeps. Prints Markdown on stdout; `--json FILE` also writes the rows.
 * Calibrate on one text and report on another: what is measured must not be what was fitted.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { calibrate, compress, evaluate, Model } from 'flrc'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calibration: { type: 'string' },
    text: { type: 'string' },
    keep: { type: 'string', multiple: true, default: ['0.9'] },
    samples: { type: 'string', default: '64' },
    'seq-len': { type: 'string', default: '512' },
    windows: { type: 'string', default: '24' },
    dtype: { type: 'string', default: 'bf16' },
    json: { type: 'string' },
  },
})
const [source] = positionals
if (source === undefined || values.calibration === undefined || values.text === undefined) {
  console.log('skipped: usage is npm run bench -- methods MODEL --calibration FILE --text FILE [--keep K ...]')
  process.exit(0)
}

interface Row {
  method: string
  keep: number
  perplexity: number
  storedBytes: number
  seconds: number
}

const seqLen = Number(values['seq-len'])
const dtype = values.dtype as 'f32' | 'bf16'
const text = await readFile(values.text, 'utf8')
const measure = async (model: Model) =>
  (await evaluate.perplexity(model, text, { seqLen, windows: Number(values.windows) })).perplexity
const report = (line: string) => console.error(line)

const dense = await Model.load(source, { dtype })
const rows: Row[] = [
  { method: 'dense', keep: 1, perplexity: await measure(dense), storedBytes: dense.bytes, seconds: 0 },
]
const began = performance.now()
const calibration = await calibrate(dense, {
  calibration: [await readFile(values.calibration, 'utf8')],
  samples: Number(values.samples),
  seqLen,
})
const calibrated = (performance.now() - began) / 1000
report(`calibrated in ${calibrated.toFixed(1)} s: ${JSON.stringify(calibration.figures.seconds)}`)
for (const keep of values.keep.map(Number)) {
  for (const method of ['uniform', 'fisher', 'curve'] as const) {
    const start = performance.now()
    const small = await compress(dense, { keep, method, calibration })
    const seconds = (performance.now() - start) / 1000
    rows.push({ method, keep, perplexity: await measure(small), storedBytes: small.bytes, seconds })
    small.dispose()
    report(JSON.stringify(rows.at(-1)))
  }
}
for (const dtype of ['int8', 'int4'] as const) {
  const quantised = await Model.load(source, { dtype })
  rows.push({
    method: `dense ${dtype}`,
    keep: 1,
    perplexity: await measure(quantised),
    storedBytes: quantised.bytes,
    seconds: 0,
  })
  quantised.dispose()
}
calibration.dispose()
dense.dispose()

console.log('| method | keep | perplexity | bytes in memory | seconds to cut |')
console.log('| --- | --- | --- | --- | --- |')
for (const row of rows) {
  const megabytes = (row.storedBytes / 1e6).toFixed(1)
  const seconds = row.seconds > 0 ? row.seconds.toFixed(1) : ''
  console.log(`| ${row.method} | ${row.keep} | ${row.perplexity.toFixed(2)} | ${megabytes} MB | ${seconds} |`)
}
if (values.json !== undefined) {
  const options = { seqLen, windows: Number(values.windows), samples: Number(values.samples), dtype }
  await writeFile(
    values.json,
    `${JSON.stringify({ options, calibrationSeconds: calibrated, rows }, null, 2)}\n`,
  )
}
