import { type Command, Option } from 'commander'
import { exportModel } from '../export.js'
import { loadModel } from './load.js'
import { addCommonOptions, type CommonOptions } from './options.js'
import { formatBytes, print, printJson } from './output.js'
import { step } from './steps.js'

interface ExportFlags extends CommonOptions {
  output: string
  overwrite: boolean
}

export function registerExport(program: Command, signal: AbortSignal): void {
  const command = program
    .command('export')
    .description('write a model as a dense Hugging Face directory, for other programs')
    .argument('<model>', 'FLRC directory, or any other model')
    .addOption(new Option('--to <format>', 'what to write').choices(['hf']).default('hf'))
    .requiredOption('-o, --output <dir>', 'directory to write')
    .option('--overwrite', 'replace an earlier export', false)
  addCommonOptions(command).action(async (path: string, flags: ExportFlags) => {
    const { json, output, overwrite } = flags
    const model = await loadModel(path, flags, signal)
    const result = await step(`write ${output}`, (onProgress) =>
      exportModel(model, output, { overwrite, signal, onProgress }),
    )
    if (json) await printJson(result)
    else await print(`${result.directory}: ${formatBytes(result.bytes)}\n`)
  })
}
