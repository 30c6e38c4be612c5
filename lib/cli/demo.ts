import path from 'node:path'
import type { Command } from 'commander'
import { packageRoot } from '../binding.js'
import { type Calibration, calibrate } from '../calibrate.js'
import { prepareTarget } from '../checkpoint/directory.js'
import { compress, isQuantised } from '../compress.js'
import { perplexity } from '../evaluate.js'
import { type Completion, complete, type GenerateOptions } from '../generate.js'
import { Model } from '../public-model.js'
import type { QualityRows } from '../report.js'
import { progressive } from '../schedule.js'
import { scoreChart } from './chart.js'
import { readTextFile, writeNewFile } from './files.js'
import { addCommonOptions, type CommonOptions } from './options.js'
import { formatBytes, formatProse, formatTable, print, printJson } from './output.js'
import { step } from './steps.js'

const keep = 0.8
/** Deeper cuts show more clearly what the methods are worth. */
const keeps = [keep, 0.6]
const levels = [0.8, 0.7, 0.6]
const seqLen = 256
const samples = 128
const prompt = 'Once upon a time there was a king who'
const maxTokens = 48
/** Greedy, a model this small runs in circles. */
const sampling = { temperature: 0.8, topP: 0.95, seed: 3 }
const repeats = 7
/** Tokens over which the progressive run goes from the first level to the last. */
const fallOver = 32
const folder = 'flrc-demo'

interface Row {
  name: string
  /** Stored block parameters as a share of the dense model's. */
  keep: number
  perplexity: number
  storedBytes: number
  meanActiveBudget: number
  tokensPerSecond: number
  text: string
}

export function registerDemo(program: Command, signal: AbortSignal): void {
  const command = program
    .command('demo')
    .description(`compress the embedded model, compare, and save a checkpoint to ./${folder}`)
  addCommonOptions(command).action((flags: CommonOptions) => demo(flags, signal))
}

async function demo({ dtype, device, threads, json }: CommonOptions, signal: AbortSignal): Promise<void> {
  const begin = performance.now()
  const tiny = path.join(packageRoot, 'models', 'tiny')
  const say = async (text: string) => {
    if (!json) await print(`${text}\n`)
  }
  // Saying so at the end would cost the whole run.
  await prepareTarget(folder, { overwrite: true })
  const heldout = await readTextFile(path.join(tiny, 'heldout.txt'))
  const text = await readTextFile(path.join(tiny, 'calibration.txt'))
  const dense = await step('load models/tiny', (onProgress) =>
    Model.load(tiny, { dtype, device, threads, signal, onProgress }),
  )
  const inputMoments = isQuantised(dense.dtype)
  const calibration = await step('calibrate', (onProgress) =>
    calibrate(dense, { calibration: [text], samples, seqLen, inputMoments, signal, onProgress }),
  )
  const scores = fisherScores(calibration)
  await say(
    `Fisher score of each projection, as a share of the largest:\n\n${scoreChart(dense.projections, scores)}\n`,
  )

  const measure = async (
    name: string,
    share: number,
    model: Model,
    options: GenerateOptions = {},
  ): Promise<Row> => {
    const quality = await step(`measure ${name}, keep ${share}`, (onProgress) =>
      perplexity(model, heldout, { seqLen, signal, onProgress }),
    )
    const run = await generateRepeatedly(model, { ...options, signal })
    return {
      name,
      keep: share,
      perplexity: quality.perplexity,
      storedBytes: model.storedBytes,
      meanActiveBudget: run.meanActiveBudget,
      tokensPerSecond: run.tokensPerSecond,
      text: run.text,
    }
  }
  const rows = [await measure('dense', 1, dense)]
  for (const share of keeps) {
    for (const method of ['uniform', 'fisher', 'curve'] as const) {
      const small = await step(`compress by ${method}, keep ${share}`, (onProgress) =>
        compress(dense, { keep: share, method, calibration, signal, onProgress }),
      )
      rows.push(await measure(method, share, small))
      small.dispose()
    }
  }
  const falling = await step('compress by curve, three levels', (onProgress) =>
    compress(dense, { keep, levels, method: 'curve', calibration, signal, onProgress }),
  )
  const schedule = progressive({ from: keep, to: levels.at(-1) ?? keep, over: fallOver })
  rows.push(await measure('curve, progressive', keep, falling, { schedule }))
  const byLevel = await levelPerplexities(falling, heldout, signal)
  await step(`save ./${folder}`, (onProgress) => falling.save(folder, { overwrite: true, signal, onProgress }))
  const report = path.join(folder, 'report.html')
  await step(`write ./${report}`, async () => {
    const { reportHtml } = await import('../report.js')
    await writeNewFile(report, await reportHtml(folder, qualityOf(dense, rows)))
  })
  const seconds = (performance.now() - begin) / 1000

  if (json) {
    await printJson({ keep, scores, rows, levels: byLevel, checkpoint: folder, report, seconds })
    return
  }
  await say(describe(rows))
  await say(
    byLevel
      .map(
        ({ budget, perplexity: value }, level) =>
          `level ${level}: active budget ${budget.toFixed(3)}, perplexity ${value.toFixed(2)}`,
      )
      .join('\n'),
  )
  for (const row of rows) await say(`\n${row.name}, keep ${row.keep}:\n${formatProse(prompt + row.text)}`)
  await say(
    `\nsaved the progressive model to ./${folder} (${formatBytes(falling.storedBytes)}), in ${seconds.toFixed(1)} s in all\n` +
      `all of this and more, with figures: ./${report}\n` +
      `let it write: npx flrc generate ./${folder} -p "Once upon a time" --schedule linear:.8:.6:32`,
  )
}

function fisherScores(calibration: Calibration): Record<string, number> {
  return Object.fromEntries(Object.entries(calibration.scores).map(([name, { fisher }]) => [name, fisher]))
}

/** The rows as the report shows them, beside what they were measured on. */
export function qualityOf({ dtype }: Pick<Model, 'dtype'>, rows: readonly Row[]): QualityRows {
  return {
    caption:
      `The embedded model in ${dtype}; calibrated on ${samples} windows of ${seqLen} tokens, perplexity of held-out text ` +
      `in windows of ${seqLen}.`,
    models: rows.map(({ name, keep: share, storedBytes: bytes, perplexity: value }) => ({
      series: name,
      label: share === 1 ? 'as loaded' : `keep ${share}`,
      keep: share,
      bytes,
      perplexity: value,
    })),
  }
}

/** The run of median speed; the seed is fixed, so all of them have the same text. */
async function generateRepeatedly(model: Model, options: GenerateOptions): Promise<Completion> {
  const runs: Completion[] = []
  for (let run = 0; run < repeats; run++)
    runs.push(await complete(model.generate(prompt, { ...sampling, ...options, maxTokens })))
  runs.sort((a, b) => a.tokensPerSecond - b.tokensPerSecond)
  return runs[repeats >> 1] as Completion
}

async function levelPerplexities(model: Model, text: string, signal: AbortSignal) {
  const results: { budget: number; perplexity: number }[] = []
  for (const [level, { budget }] of model.levels.entries()) {
    const { perplexity: value } = await perplexity(model, text, { seqLen, level, signal })
    results.push({ budget, perplexity: value })
  }
  return results
}

function describe(rows: readonly Row[]): string {
  const table = formatTable(
    ['method', 'keep', 'perplexity', 'stored', 'active budget', 'tokens/s *'],
    rows.map((row) => [
      row.name,
      row.keep.toFixed(1),
      row.perplexity.toFixed(2),
      formatBytes(row.storedBytes),
      row.meanActiveBudget.toFixed(3),
      row.tokensPerSecond.toFixed(0),
    ]),
  )
  return `${table}\n* no claim of speed: this model fits the cache, so fewer bytes read save little`
}
