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
import { progressivePlot } from './progressive/plot.js'
import { planRows, type Row } from './progressive/rows.js'
import { makeRows } from './progressive/run.js'
import { renderHead, renderQuality, renderSpeeds, renderSteps } from './progressive/tables.js'
import { RowStore } from './quality/store.js'

const report = (line: string) => console.error(line)

async function tables(options: ProgressiveOptions, folder: string, signal: AbortSignal): Promise<number> {
  // Rows are what takes hours, and --json keeps them; a plot is drawn again from them at any time.
  if (options.plot !== undefined) await checkNewFile(options.plot, { overwrite: true })
  const { bench, measure, settings } = await prepare(options, signal)
  const store = await RowStore.open<Row>(options.json, settings, options.resume)
  const { summaries, dev } = options.files
  const plans = planRows({ ...options, summaries: summaries !== undefined, dev: dev !== undefined })
  report(`${plans.length} rows`)
  const models = new ModelFolder(folder, bench, settings)
  const failures = await makeRows(plans, { bench, models, measure, store, report })
  const rows = plans.flatMap(({ key }) => store.get(key) ?? [])
  console.log([renderHead(settings), renderQuality(rows), renderSteps(rows), renderSpeeds(rows)].join('\n'))
  for (const { key, reason } of failures) console.log(`- not made (${reason}): ${key}`)
  if (options.plot !== undefined) {
    const drawn = plans.flatMap(({ key, fall }) => {
      const row = store.get(key)
      return row === undefined ? [] : [{ ...row, fall }]
    })
    await writeNewFile(options.plot, standalone(await progressivePlot(drawn, settings)), { overwrite: true })
  }
  return failures.length > 0 ? 1 : 0
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
