// What the embedded model writes on the GPU beside what it writes on the CPU, dense and compressed, and how fast; and
// how both compress it:
//   node bench/cuda-demo.mjs [TOKENS]
// Ends with status 1 where there is no GPU to use or a model writes something else there. `npm run pack:cuda-demo`
// gathers all that this needs for a machine that has no Node.
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
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

async function main() {
  // First, so that what is missing is said at once.
  const dense = await onBoth(tiny)
  console.log(`${dense.gpu.plugin.device}, beside the CPU`)
  const folder = await mkdtemp(path.join(tmpdir(), 'flrc-cuda-demo-'))
  const compressed = path.join(folder, 'compressed')
  const rows = []
  try {
    rows.push(...(await compare('dense', dense)))
    const calibration = [await readFile(path.join(tiny, 'calibration.txt'), 'utf8')]
    const made = await compress(dense.cpu, { ...compression, calibration })
    await made.save(compressed)
    made.dispose()
    const small = await onBoth(compressed)
    rows.push(...(await compare(`compressed, keep ${keep}`, small)))
    release(small)
    console.log(`\n${table(rows)}\n`)
    check(rows)
    for (const device of ['cpu', 'cuda']) benchDecode(device, [tiny, compressed])
    const onGpu = await compress(dense.gpu, { ...compression, calibration })
    console.log(`\n${compressionTable(made.report, onGpu.report)}`)
    onGpu.dispose()
    release(dense)
  } finally {
    await rm(folder, { recursive: true })
  }
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

/** `flrc bench decode`, whose table says what the bytes read would allow. */
function benchDecode(device, models) {
  const schedule = `linear:${keep}:0.6:32`
  const args = ['bench', 'decode', ...models, '--schedule', schedule, '--tokens', String(maxTokens)]
  console.log(`flrc ${args.slice(0, 2).join(' ')} --device ${device}`)
  const { status } = spawnSync(
    process.execPath,
    [path.join(root, 'dist/cli/main.js'), ...args, '--device', device],
    { stdio: 'inherit' },
  )
  if (status !== 0) throw new Error(`flrc bench decode --device ${device} ends with ${status}`)
}

try {
  await main()
} catch (error) {
  console.error(error.code === undefined ? error : `${error.code}: ${error.message}`)
  process.exitCode = 1
}
