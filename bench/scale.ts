/**
 * Time and memory of compressing generated models:
 * `npm run bench -- scale --shape llama-3.2-1b --samples 8 --seq-len 512 --keep .8 --memory 4GB`.
 *
 * Each model is compressed in a process of its own. Random weights have flat spectra: that changes which ranks are
 * chosen and what perplexity comes out, not how long it takes or what it holds. `--depths 2,4,8` runs one shape at
 * several depths, `--layers` at another than its own. `--json FILE` adds the runs to a file, `--page FILE` writes
 * the tables of that file into a page; without it they are printed.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir, totalmem } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { callNative } from '#lib/binding.js'
import { defaultMemory } from '#lib/calibrate.js'
import { parseBytes } from '#lib/cli/options.js'
import { generateModel } from './scale/generate.js'
import { insertTables, type ScaleResults, type ScaleRun, scaleTables } from './scale/page.js'
import type { RunOptions, RunResult } from './scale/run.js'
import { type ModelShape, shapes } from './scale/shapes.js'
import { outputOf } from './support/child.js'

const { values } = parseArgs({
  options: {
    shape: { type: 'string', multiple: true, default: [] },
    layers: { type: 'string' },
    depths: { type: 'string' },
    samples: { type: 'string', default: '8' },
    'seq-len': { type: 'string', default: '512' },
    keep: { type: 'string', default: '.8' },
    memory: { type: 'string' },
    threads: { type: 'string', default: '0' },
    json: { type: 'string' },
    page: { type: 'string' },
  },
})
if (values.shape.length === 0 && values.json === undefined) {
  console.log(
    `skipped: usage is npm run bench -- scale --shape ${Object.keys(shapes).join('|')} [--memory 4GB]`,
  )
  process.exit(0)
}

const results: ScaleResults = {
  machine: {
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    node: process.versions.node,
    blas: callNative((addon) => addon.info().blas),
  },
  runs: values.json === undefined ? [] : await readRuns(values.json),
}
const depths = (values.depths ?? values.layers)?.split(',').map(Number)
for (const name of values.shape) {
  const shape = shapes[name]
  if (shape === undefined) throw new Error(`no shape ${name}; there are ${Object.keys(shapes).join(', ')}`)
  for (const layers of depths ?? [shape.layers]) {
    const run = await measure(name, { ...shape, layers })
    results.runs = [...results.runs.filter((other) => key(other) !== key(run)), run]
    if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(results, null, 2)}\n`)
  }
}
const tables = scaleTables(results)
if (values.page === undefined) console.log(tables)
else await writeFile(values.page, insertTables(await readFile(values.page, 'utf8'), tables))

function key({ name, shape, samples, seqLen, memory }: ScaleRun): string {
  return JSON.stringify([name, shape.layers, samples, seqLen, memory])
}

async function readRuns(file: string): Promise<ScaleRun[]> {
  const text = await readFile(file, 'utf8').catch(() => undefined)
  return text === undefined ? [] : (JSON.parse(text) as ScaleResults).runs
}

async function measure(name: string, shape: ModelShape): Promise<ScaleRun> {
  const directory = await mkdtemp(path.join(tmpdir(), 'flrc-scale-'))
  try {
    const samples = Number(values.samples)
    const seqLen = Number(values['seq-len'])
    const memory = values.memory === undefined ? defaultMemory() : parseBytes(values.memory)
    const begin = performance.now()
    await generateModel(directory, shape)
    console.error(
      `${name}, ${shape.layers} layers: generated in ${((performance.now() - begin) / 1000).toFixed(1)} s`,
    )
    const options: RunOptions = {
      ...{ samples, seqLen, memory },
      keep: Number(values.keep),
      threads: Number(values.threads),
    }
    const result = JSON.parse(await runChild([directory, JSON.stringify(options)])) as RunResult
    console.error(JSON.stringify(result))
    return { name, shape, samples, seqLen, memory, series: values.depths !== undefined, result }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** What the child prints, once it has ended well. */
function runChild(args: readonly string[]): Promise<string> {
  const script = fileURLToPath(new URL('./scale/run.js', import.meta.url))
  return outputOf(process.execPath, [script, ...args], 'the compression')
}
