/**
 * Whole models beside llama.cpp, built natively by llama-cpp-python, and node-llama-cpp:
 *
 *   python -m venv VENV && VENV/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
 *   npm install --prefix FOLDER --ignore-scripts node-llama-cpp
 *   npm run bench -- llama MODEL.gguf --python VENV/bin/python --node-llama FOLDER --files DIR [--low-rank CHECKPOINT]
 *
 * The same prompt of --prompt-tokens ids and --tokens after it, then a prompt of --prefill-tokens alone, on as many
 * threads. All take turns in every round, beside the read bandwidth; the first round does not count. llama.cpp decodes
 * without sampling; flrc and node-llama-cpp, which gets the file as it came, sample greedily. DIR keeps the model in the
 * types that llama.cpp quantises it to. A checkpoint counts at every level, its prompts at the same one. `--json FILE` keeps the result, round by round;
 * `--tables` prints what the file holds and measures nothing.
 */
import { existsSync } from 'node:fs'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Model } from 'flrc'
import { readBandwidth } from '#lib/bench/decode.js'
import { packageRoot } from '#lib/binding.js'
import { flrcSubject, type Seconds, Server, type Subject, servedSubject } from './llama/engines.js'
import { nodeLlamaProgram } from './llama/node-llama.js'
import { type LlamaResults, type LlamaRow, llamaTables } from './llama/tables.js'
import { outputOf } from './support/child.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: 'string' },
    'node-llama': { type: 'string' },
    files: { type: 'string' },
    'low-rank': { type: 'string', multiple: true, default: [] },
    dtype: { type: 'string', multiple: true, default: ['bf16', 'int8', 'int4'] },
    type: { type: 'string', multiple: true, default: ['BF16', 'Q8_0', 'Q4_0', 'Q4_K_M'] },
    threads: { type: 'string', default: String(availableParallelism()) },
    'prompt-tokens': { type: 'string', default: '32' },
    tokens: { type: 'string', default: '128' },
    'prefill-tokens': { type: 'string', default: '512' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'string' },
    tables: { type: 'boolean', default: false },
  },
})

const [source] = positionals
const { python, files, json } = values
const threads = Number(values.threads)
const [promptTokens, tokens, prefillTokens, rounds] = [
  Number(values['prompt-tokens']),
  Number(values.tokens),
  Number(values['prefill-tokens']),
  Number(values.rounds),
]
const llamaScript = path.join(packageRoot, 'bench/llama_decode.py')

if (values.tables && json !== undefined) {
  console.log(llamaTables(JSON.parse(await readFile(json, 'utf8')) as LlamaResults))
} else if (source === undefined || python === undefined || files === undefined) {
  console.log('skipped: give a GGUF file, --python with llama-cpp-python and --files for the types made of it')
} else {
  console.log(llamaTables(await measure(source, python, files)))
}

async function measure(gguf: string, program: string, folder: string): Promise<LlamaResults> {
  const paths = await ggufFiles(gguf, program, folder)
  const servers: Server[] = []
  const models: Model[] = []
  try {
    const subjects: Subject[] = []
    for (const dtype of values.dtype as ('bf16' | 'int8' | 'int4')[]) {
      const model = await Model.load(gguf, { dtype, threads, device: 'cpu' })
      models.push(model)
      subjects.push(flrcSubject(model, dtype))
    }
    for (const directory of values['low-rank']) {
      const model = await Model.load(directory, { threads, device: 'cpu' })
      models.push(model)
      for (const [level, { budget }] of model.levels.entries()) {
        subjects.push(flrcSubject(model, `${model.dtype} at ${budget.toFixed(2)}`, level))
      }
    }
    const context = String(Math.max(promptTokens + tokens + 1, prefillTokens + 1))
    const serve = async (engine: string, served: typeof paths, start: (args: string[]) => Server) => {
      const server = start([values.threads, context, ...served.map(({ file }) => file)])
      servers.push(server)
      await server.ask()
      for (const [index, { type, file }] of served.entries()) {
        const { size } = await stat(file)
        subjects.push(servedSubject(server, index, { engine, type, bytes: size }))
      }
    }
    await serve('llama.cpp', paths, (args) => new Server(program, [llamaScript, 'serve', ...args]))
    const beside = values['node-llama']
    if (beside !== undefined) {
      const file = path.join(path.resolve(beside), 'node-llama.mjs')
      await writeFile(file, nodeLlamaProgram)
      await serve(
        'node-llama-cpp',
        paths.slice(0, 1),
        (args) => new Server(process.execPath, [file, ...args], beside),
      )
    }
    return await takeTurns(subjects, models)
  } finally {
    for (const server of servers) server.close()
    for (const model of models) model.dispose()
  }
}

/** The model as it came, then in the types that llama.cpp makes of it. */
async function ggufFiles(
  gguf: string,
  program: string,
  folder: string,
): Promise<{ type: string; file: string }[]> {
  await mkdir(folder, { recursive: true })
  const made = []
  for (const type of values.type) {
    const file = path.resolve(folder, `${type}.gguf`)
    if (!existsSync(file)) await outputOf(program, [llamaScript, 'quantize', gguf, type, file], 'quantising')
    made.push({ type, file })
  }
  return [{ type: 'as it came', file: path.resolve(gguf) }, ...made]
}

async function takeTurns(subjects: readonly Subject[], [model]: readonly Model[]): Promise<LlamaResults> {
  if (model === undefined) throw new Error('there is no model of flrc to measure; give a --dtype')
  const words = Array.from(model.tokenizer.encode('The people of the town met every day at the market.'))
  const prompt = (length: number) => Array.from({ length }, (_, index) => words[index % words.length] ?? 0)
  const rows: LlamaRow[] = subjects.map(({ engine, type, bytes }) => ({
    ...{ engine, type, bytes },
    ...{ decode: [], prefill: [] },
  }))
  const bandwidth: number[] = []
  const machine = cpus()[0]?.model ?? 'unknown processor'
  const results = { machine, threads, promptTokens, tokens, prefillTokens, bandwidth, rows }
  for (let round = 0; round <= rounds; round++) {
    const read = await readBandwidth(model, new AbortController().signal)
    if (round > 0) bandwidth.push(read)
    for (const [index, subject] of subjects.entries()) {
      const { decode }: Seconds = await subject.run(prompt(promptTokens), tokens)
      const { prefill }: Seconds = await subject.run(prompt(prefillTokens), 1)
      if (round === 0) continue
      rows[index]?.decode.push(tokens / decode)
      rows[index]?.prefill.push(prefillTokens / prefill)
    }
    if (round > 0 && json !== undefined) await writeFile(json, `${JSON.stringify(results, null, 2)}\n`)
  }
  return results
}
