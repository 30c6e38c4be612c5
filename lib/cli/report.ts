import type { Command } from 'commander'
import { checkNewFile, writeNewFile } from './files.js'
import { addCommonOptions, type CommonOptions } from './options.js'
import { formatBytes, print, printJson } from './output.js'

interface ReportFlags extends CommonOptions {
  output: string
  quality?: string[]
  overwrite: boolean
}

export function registerReport(program: Command): void {
  const command = program
    .command('report')
    .description('write what a checkpoint is and costs as one HTML file, with figures')
    .argument('<dir>', 'FLRC directory')
    .requiredOption('-o, --output <file>', 'HTML file to write')
    .option(
      '--quality <files...>',
      'rows of other methods beside it, from npm run bench:quality -- --json FILE',
    )
    .option('--overwrite', 'replace an existing file', false)
  addCommonOptions(command).action(async (directory: string, flags: ReportFlags) => {
    const { output, quality, overwrite, json } = flags
    await checkNewFile(output, { overwrite })
    // What draws takes a third of a second to load.
    const { reportHtml } = await import('../report.js')
    const html = await reportHtml(directory, quality)
    await writeNewFile(output, html, { overwrite })
    const bytes = Buffer.byteLength(html)
    if (json) await printJson({ report: output, bytes })
    else await print(`${output}: ${formatBytes(bytes)}\n`)
  })
}
