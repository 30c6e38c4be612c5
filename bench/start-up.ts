/**
 * How long until something happens, beside node-llama-cpp and transformers.js:
 *
 *   npm run pack
 *   npm install --prefix FOLDER --ignore-scripts build/package/flrc-*.tgz node-llama-cpp @huggingface/transformers
 *   python bench/onnx_model.py models/tiny FOLDER/onnx/tiny
 *   npm run bench -- start-up FOLDER [--rounds N]
 *
 * Wall time from starting a process to the end of `--version`, and to the first token of the embedded model (its GGUF
 * copy, made here, for node-llama-cpp; its ONNX copy for transformers.js), each in a process of its own and on one
 * thread. All take turns; the first round, which fills the file cache, does not count. Median, with the fastest and the
 * slowest.
 */
import { writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { packageRoot } from '#lib/binding.js'
import { medianOf } from '#lib/statistics/median.js'
import { embeddedGguf } from './start-up/gguf.js'
import { type Program, untilOutput } from './support/child.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '15' } },
})
const [folder] = positionals
if (folder === undefined) {
  console.log('skipped: give a folder where flrc, node-llama-cpp and @huggingface/transformers are installed')
  process.exit()
}
const beside = path.resolve(folder)
const tiny = path.join(packageRoot, 'models', 'tiny')
const gguf = path.join(beside, 'tiny.gguf')
await writeFile(gguf, await embeddedGguf(tiny))

const prompt = JSON.stringify('Once upon a time')
const programs: Record<string, string> = {
  flrc: `
    import { Model } from 'flrc'
    const model = await Model.load(${JSON.stringify(tiny)}, { threads: 1 })
    for await (const { text } of model.generate(${prompt}, { maxTokens: 1 })) process.stdout.write(text)`,
  'node-llama-cpp': `
    import { getLlama, LlamaCompletion } from 'node-llama-cpp'
    const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false })
    const model = await llama.loadModel({ modelPath: ${JSON.stringify(gguf)} })
    const context = await model.createContext({ contextSize: 512, threads: 1 })
    const completion = new LlamaCompletion({ contextSequence: context.getSequence() })
    process.stdout.write(await completion.generateCompletion(${prompt}, { maxTokens: 1, temperature: 0 }))`,
  'transformers.js': `
    import { env, pipeline } from '@huggingface/transformers'
    Object.assign(env, { allowRemoteModels: false, localModelPath: ${JSON.stringify(path.join(beside, 'onnx'))} })
    const session_options = { intraOpNumThreads: 1 }
    const generate = await pipeline('text-generation', 'tiny', { dtype: 'fp32', device: 'cpu', session_options })
    const options = { max_new_tokens: 1, do_sample: false, return_full_text: false }
    process.stdout.write((await generate(${prompt}, options))[0].generated_text)`,
}

// Files rather than `-e`: node-llama-cpp tries its binary in a child that gets the same options of Node.
const programFile = (name: string) => path.join(beside, `first-token-${name}.mjs`)

const node = (...args: string[]) => ({ command: process.execPath, args })
const npx = (...args: string[]) => ({ command: 'npx', args: ['--no-install', ...args] })
const installed = (...parts: string[]) => path.join(beside, 'node_modules', ...parts)
const rows: Program[] = [
  { name: 'node -e 0', ...node('-e', 'console.log(0)') },
  { name: 'flrc --version', ...node(installed('flrc/dist/cli/main.js'), '--version') },
  { name: 'npx flrc --version', ...npx('flrc', '--version') },
  { name: 'npx node-llama-cpp --version', ...npx('node-llama-cpp', '--version') },
  {
    name: 'flrc generate, first token',
    ...node(
      installed('flrc/dist/cli/main.js'),
      'generate',
      tiny,
      '-p',
      'Once upon a time',
      '--max-tokens',
      '1',
      '--threads',
      '1',
    ),
  },
  ...Object.keys(programs).map((name) => ({ name: `${name}, first token`, ...node(programFile(name)) })),
]
for (const [name, program] of Object.entries(programs)) await writeFile(programFile(name), program)

const times = new Map(rows.map(({ name }) => [name, [] as number[]]))
for (let round = 0; round <= Number(values.rounds); round++) {
  for (const row of rows) {
    const ms = await untilOutput(row, beside)
    if (round > 0) times.get(row.name)?.push(ms)
  }
}
console.log(`Node ${process.versions.node}, ${cpus()[0]?.model}, ${values.rounds} rounds\n`)
console.log('| until output | median ms | fastest to slowest |\n| --- | ---: | ---: |')
for (const [name, ms] of times) {
  const round = (value: number) => value.toFixed(0)
  console.log(`| ${name} | ${round(medianOf(ms))} | ${round(Math.min(...ms))} to ${round(Math.max(...ms))} |`)
}
