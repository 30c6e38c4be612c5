// Runs the compiled benchmarks of bench/: all of them, or the one named first with its arguments.
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { handOver, root } from './setup/log.mjs'

const folder = path.join(root, 'build/ts/bench')
const names = readdirSync(folder)
  .filter((file) => file.endsWith('.js'))
  .map((file) => path.basename(file, '.js'))
const [wanted, ...args] = process.argv.slice(2)

if (wanted === '--help') {
  process.stdout.write(
    `usage: npm run bench -- [NAME [ARGUMENTS]]\n\nAll of these, or one: ${names.join(', ')}\n`,
  )
} else if (wanted !== undefined && !names.includes(wanted)) {
  process.stderr.write(`no benchmark is called ${wanted}; there are: ${names.join(', ')}\n`)
  process.exitCode = 2
} else {
  const chosen = wanted === undefined ? names : [wanted]
  for (const name of chosen) {
    const status = await handOver(process.execPath, [path.join(folder, `${name}.js`), ...args])
    if (status !== 0) process.exitCode = status
  }
}
