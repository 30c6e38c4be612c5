// What the embedded model writes on the GPU beside what it writes on the CPU, dense and compressed, and how fast; and
// how both compress it:
//   node bench/cuda-demo.mjs [TOKENS]
// Each in a process of its own, so that one which ends or hangs takes no other with it. Ends with status 1 where there is
// no GPU to use, a model writes something else there, or anything fails. `npm run pack:cuda-demo` gathers all that this
// needs for a machine that has no Node.
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { complete, compress, Model, progressive } from 'flrc'

const root = fileURLToPath(new URL('..', import.meta.url))
const tiny = path.join(root, 'models/tiny')
const maxTokens = Number(process.argv[2] ?? 48)
const prompts = ['Once upon a time', 'The king said', 'It was a dark night, and']
/** Sums run in another order there: two tokens that are all but equally likely may change places after so many. */
const surelySame = 8
const keep = 0.8
const levels = [0.8, 0.7, 0.6]
const compression = { keep, levels, samples: 32 }
const falling = progressive({ from: keep, to: 0.6, over: 32 })

/** How the models are run; the last two need their levels. */
const runs = [
  { name: 'full rank', options: {} },
  { name: 'falling rank', options: { schedule: falling }, levels: true },
  { name: 'speculation', options: { speculate: { tokens: 4, budget: 0.6 } }, levels: true },
]

/** What this does itself, each in a process of its own. */
const parts = { writing, compressing }
const secondsOfPart = 60

/** What is handed on to these. */
const modelIn = (folder) => path.join(folder, 'compressed')
const reportIn = (folder) => path.join(folder, 'report.json')

/** The arguments of all processes. `flrc bench decode` says what the bytes read would allow. */
function processesWith(folder) {
  const own = (part) => [fileURLToPath(import.meta.url), String(maxTokens), part, folder]
  const decoding = (device) => [
    ...[path.join(root, 'dist/cli/main.js'), 'bench', 'decode', tiny, modelIn(folder), '--device', device],
    ...['--schedule', `linear:${keep}:0.6:32`, '--tokens', String(maxTokens)],
  ]
  return {
    writing: own('writing'),
    'flrc bench decode --device cpu': decoding('cpu'),
    'flrc bench decode --device cuda': decoding('cuda'),
    compressing: own('compressing'),
  }
}

async function main() {
  // First, so that what is missing is said at once.
  const gpu = await Model.load(tiny, { device: 'cuda' })
  console.log(`${gpu.plugin.device}, beside the CPU`)
  gpu.dispose()
  const folder = await mkdtemp(path.join(tmpdir(), 'flrc-cuda-demo-'))
  try {
    const cpu = await Model.load(tiny, { device: 'cpu' })
    const made = await compressedFrom(cpu)
    await made.save(modelIn(folder))
    await writeFile(reportIn(folder), JSON.stringify(made.report))
    for (const model of [made, cpu]) model.dispose()
    for (const [part, args] of Object.entries(processesWith(folder))) {
      console.log(`\n${part}`)
      const options = { stdio: 'inherit', timeout: secondsOfPart * 1000, killSignal: 'SIGKILL' }
      const { status, signal, error } = spawnSync(process.execPath, args, options)
      if (status === 0) continue
      const what =
        error?.code === 'ETIMEDOUT' ? `not done after ${secondsOfPart} s` : `ends with ${signal ?? status}`
      console.error(`${part}: ${what}`)
      process.exitCode = 1
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function writing(folder) {
  const dense = await onBoth(tiny)
  const small = await onBoth(modelIn(folder))
  const rows = [...(await compare('dense', dense)), ...(await compare(`compressed, keep ${keep}`, small))]
  console.log(table(rows))
  check(rows)
  for (const models of [dense, small]) release(models)
}

async function compressing(folder) {
  const gpu = await Model.load(tiny, { device: 'cuda' })
  const made = await compressedFrom(gpu)
  console.log(compressionTable(JSON.parse(await readFile(reportIn(folder), 'utf8')), made.report))
  for (const model of [made, gpu]) model.dispose()
}

async function compressedFrom(model) {
  const calibration = [await readFile(path.join(tiny, 'calibration.txt'), 'utf8')]
  return compress(model, { ...compression, calibration })
}

/** Says which rows of a table do not begin alike. */
function check(rows) {
  const apart = rows.filter(({ same, tokens }) => same < Math.min(tokens, surelySame * prompts.length))
  for (const { model, run } of apart) console.error(`${model}, ${run}: the GPU writes something else`)
  if (apart.length > 0) process.exitCode = 1
}

async function onBoth(model) {
  const gpu = await Model.load(model, { device: 'cuda' })
  return { gpu, cpu: await Model.load(model, { device: 'cpu' }) }
}

function release({ cpu, gpu }) {
  for (const model of [cpu, gpu]) model.dispose()
}

async function compare(model, { cpu, gpu }) {
  const rows = []
  for (const { name, options } of runs.filter((run) => !run.levels || cpu.levels.length > 1)) {
    const row = { model, run: name, tokens: 0, same: 0, cpu: [], gpu: [] }
    for (const prompt of prompts) {
      const [expected, got] = [
        await complete(cpu.generate(prompt, { maxTokens, ...options })),
        await complete(gpu.generate(prompt, { maxTokens, ...options })),
      ]
      const other = expected.tokenIds.findIndex((token, index) => token !== got.tokenIds[index])
      row.tokens += expected.tokenIds.length
      row.same += other < 0 ? expected.tokenIds.length : other
      row.cpu.push(expected.tokensPerSecond)
      row.gpu.push(got.tokensPerSecond)
    }
    rows.push(row)
  }
  return rows
}

function table(rows) {
  const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1].toFixed(0)
  return [
    '| model | run | tokens | the same on both | CPU, tokens/s | GPU, tokens/s |',
    '| --- | --- | --- | --- | --- | --- |',
    ...rows.map(
      ({ model, run, tokens, same, cpu, gpu }) =>
        `| ${model} | ${run} | ${tokens} | ${same} | ${median(cpu)} | ${median(gpu)} |`,
    ),
  ].join('\n')
}

function compressionTable(cpu, gpu) {
  const names = Object.keys(cpu.ranks)
  const same = names.filter((name) => gpu.ranks[name] === cpu.ranks[name]).length
  const parts = ['calibrate', 'factorize', 'curves', 'total']
  const row = (name, { seconds }) =>
    `| ${[name, ...parts.map((part) => seconds[part].toFixed(2))].join(' | ')} |`
  return [
    `| compress on, seconds | ${parts.join(' | ')} |`,
    `| --- |${' --- |'.repeat(parts.length)}`,
    row('CPU', cpu),
    row('GPU', gpu),
    '',
    `${same} of ${names.length} projections have the rank that they have on the CPU`,
  ].join('\n')
}

const [, , , part, folder] = process.argv
try {
  await (part === undefined ? main() : parts[part](folder))
} catch (error) {
  console.error(error.code === undefined ? error : `${error.code}: ${error.message}`)
  process.exitCode = 1
}
