/**
 * Falling rank beside dense and static models, quality and speed: `npm run bench:progressive`. `--help` says what can
 * be measured. Exit 0: all rows made; 1: some failed; 2: wrong usage; 130: interrupted.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { FlrcError } from 'flrc'
import { checkNewFile, writeNewFile } from '#lib/cli/files.js'
import { standalone } from '#lib/plots.js'
import { prepare } from './progressive/inputs.js'
import { ModelFolder } from './progressive/models.js'
import { type ProgressiveOptions, readOptions, usage } from './progressive/options.js'
import { OutputFolder } from './progressive/outputs.js'
import { progressivePlot } from './progressive/plot.js'
import { chosenRows, planRows, type Row, type RowPlan, storedPlans } from './progressive/rows.js'
import { makeRows } from './progressive/run.js'
import {
  measured,
  renderDifferences,
  renderHead,
  renderQuality,
  renderSpeeds,
  renderSteps,
  renderStored,
} from './progressive/tables.js'
import { RowStore } from './quality/store.js'

const report = (line: string) => console.error(line)

async function tables(options: ProgressiveOptions, folder: string, signal: AbortSignal): Promise<number> {
  // Rows are what takes hours, and --json keeps them; a plot is drawn again from them at any time.
  if (options.plot !== undefined) await checkNewFile(options.plot, { overwrite: true })
  if (options.render) {
    const store = await RowStore.open<Row>(options.json, {}, true)
    await show(storedPlans(store), store, options)
    return 0
  }
  const { bench, measure, settings, search } = await prepare(options, signal)
  const store = await RowStore.open<Row>(options.json, settings, options.resume)
  const { summaries, dev } = options.files
  const all = planRows({
    ...options,
    ...{ summaries: summaries !== undefined, dev: dev !== undefined, asvd: search !== undefined },
  })
  const plans = chosenRows(all, options)
  report(`${plans.length} rows of ${options.limit} samples`)
  const models = new ModelFolder(folder, bench, settings, search)
  const outputs = new OutputFolder(folder, settings)
  const failures = await makeRows(plans, { bench, models, outputs, measure, store, report })
  await show(plans, store, options)
  for (const { key, reason } of failures) console.log(`- not made (${reason}): ${key}`)
  return failures.length > 0 ? 1 : 0
}

/** The tables, and the plot where one is wanted, of what the store has. */
async function show(
  plans: readonly RowPlan[],
  store: RowStore<Row>,
  { plot }: Pick<ProgressiveOptions, 'plot'>,
): Promise<void> {
  const drawn = plans.flatMap(({ key, fall }) => {
    const row = store.get(key)
    return row === undefined ? [] : [{ ...measured(row), fall }]
  })
  const sections = [renderQuality, renderDifferences, renderStored, renderSteps, renderSpeeds]
  console.log([renderHead(store.settings), ...sections.map((render) => render(drawn))].join('\n'))
  if (plot === undefined) return
  await writeNewFile(plot, standalone(await progressivePlot(drawn, store.settings)), { overwrite: true })
}

async function main(args: readonly string[]): Promise<number> {
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.once('SIGTERM', () => interrupted.abort())
  let temporary: string | undefined
  try {
    const options = readOptions(args)
    if (options === undefined) {
      console.log(usage)
      return 0
    }
    if (options.models === undefined) temporary = await mkdtemp(path.join(tmpdir(), 'flrc-progressive-'))
    return await tables(options, options.models ?? temporary ?? '', interrupted.signal)
  } catch (error) {
    if (!(error instanceof FlrcError)) throw error
    report(`bench:progressive: ${error.code}: ${error.message}`)
    if (error.code === 'E_USAGE') report(`\n${usage}`)
    return error.code === 'E_ABORTED' ? 130 : error.code === 'E_USAGE' ? 2 : 1
  } finally {
    if (temporary !== undefined) await rm(temporary, { recursive: true, force: true })
  }
}

process.exitCode = await main(process.argv.slice(2))
