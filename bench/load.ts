/**
 * Time of a second start, files in the page cache: `npm run bench -- load MODEL... [--beside CHECKOUT --rounds N --json FILE]`.
 *
 * `Model.load`, the first token of the API and the first byte that `flrc generate` writes, the last two from the start
 * of a process; each in a process of its own, in turn, after a round that fills the file cache. --beside names another
 * checkout, built, whose library takes turns with this one's.
 */
import { writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { packageRoot } from '#lib/binding.js'
import type { LoadRun } from './load/run.js'
import { markdownTable } from './quality/tables.js'
import { outputOf, untilOutput } from './support/child.js'
import { spread } from './support/spread.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    beside: { type: 'string', multiple: true, default: [] },
    rounds: { type: 'string', default: '7' },
    json: { type: 'string' },
  },
})
if (positionals.length === 0) {
  console.log('skipped: give a model')
  process.exit()
}

interface LoadRow {
  model: string
  library: string
  /** Seconds, by round. */
  load: number[]
  firstToken: number[]
  program: number[]
}

const prompt = 'The people of the town met every day at the market.'
const child = fileURLToPath(new URL('load/run.js', import.meta.url))
const checkouts = [
  ...values.beside.map((folder) => ({ library: path.basename(folder), folder: path.resolve(folder) })),
  { library: 'this one', folder: packageRoot },
]
const rows = positionals.flatMap((model) =>
  checkouts.map(({ library, folder }) => ({
    ...{ model, folder },
    row: { model: path.basename(model), library, load: [], firstToken: [], program: [] } as LoadRow,
  })),
)
for (let round = 0; round <= Number(values.rounds); round++) {
  for (const { model, folder, row } of rows) {
    const library = path.join(folder, 'dist', 'index.js')
    const run: LoadRun = JSON.parse(
      await outputOf(process.execPath, [child, library, model, prompt], row.library),
    )
    const program = path.join(folder, 'dist', 'cli', 'main.js')
    const args = [program, 'generate', model, '-p', prompt, '--max-tokens', '1']
    const milliseconds = await untilOutput({ name: row.library, command: process.execPath, args })
    if (round === 0) continue
    row.load.push(run.loadSeconds)
    row.firstToken.push(run.firstTokenSeconds)
    row.program.push(milliseconds / 1000)
  }
}
const measured = rows.map(({ row }) => row)
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(measured, null, 2)}\n`)

console.log(`${cpus()[0]?.model}, ${cpus().length} processors, ${values.rounds} rounds\n`)
console.log(
  markdownTable(
    ['model', 'library', 'Model.load, s', 'first token, s', 'flrc generate, s'],
    measured.map(({ model, library, load, firstToken, program }) => [
      ...[model, library],
      ...[load, firstToken, program].map((seconds) => spread(seconds, 3)),
    ]),
  ),
)
