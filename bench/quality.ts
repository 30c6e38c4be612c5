/**
 * The tables of compression methods, of equal bytes, of levels and of calibration texts: `npm run bench:quality`.
 * `--help` says what they can be made of. Exit 0: all rows made; 1: some failed; 2: wrong usage; 130: interrupted.
 */
import { FlrcError } from 'flrc'
import { prepare } from './quality/inputs.js'
import { type QualityOptions, readOptions, usage } from './quality/options.js'
import { chosenSpecs, mergeSpecs, rowKey } from './quality/rows.js'
import { makeRows } from './quality/run.js'
import { planSection } from './quality/sections.js'
import { RowStore } from './quality/store.js'
import { renderHead, renderSection } from './quality/tables.js'

const report = (line: string) => console.error(line)

async function tables(options: QualityOptions, signal: AbortSignal): Promise<number> {
  const { inputs, plan, settings } = await prepare(options)
  const store = await RowStore.open(options.json, settings, options.resume)
  const sections = options.sections.map((name) => ({ name, specs: planSection(name, plan) }))
  const { model: source, dtype, numbers, limits } = options
  const bench = { source, dtype, inputs, numbers, limits, signal }
  const specs = chosenSpecs(mergeSpecs(sections.flatMap((section) => section.specs)), options.rows)
  report(`${specs.length} rows`)
  const failures = await makeRows(specs, bench, store, report)

  console.log(renderHead(settings))
  for (const { name, specs: wanted } of sections) {
    const rows = wanted.flatMap(({ model }) => store.get(rowKey(model)) ?? [])
    console.log(renderSection(name, rows, settings))
  }
  for (const reason of new Set(failures.map((failure) => failure.reason))) {
    const keys = failures.filter((failure) => failure.reason === reason).map(({ key }) => key)
    console.log(`- not made (${reason}): ${keys.join(', ')}`)
  }
  return failures.length > 0 ? 1 : 0
}

async function main(args: readonly string[]): Promise<number> {
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  process.once('SIGTERM', () => interrupted.abort())
  try {
    const options = readOptions(args)
    if (options !== undefined) return await tables(options, interrupted.signal)
    console.log(usage)
    return 0
  } catch (error) {
    if (!(error instanceof FlrcError)) throw error
    report(`bench:quality: ${error.code}: ${error.message}`)
    if (error.code === 'E_USAGE') report(`\n${usage}`)
    return error.code === 'E_ABORTED' ? 130 : error.code === 'E_USAGE' ? 2 : 1
  }
}

process.exitCode = await main(process.argv.slice(2))
