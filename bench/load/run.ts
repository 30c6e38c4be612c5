/** Child process of bench/load.ts, with the library of a checkout: prints one JSON line. */
import { pathToFileURL } from 'node:url'

export interface LoadRun {
  /** Model.load alone. */
  loadSeconds: number
  /** From the start of the process. */
  firstTokenSeconds: number
}

const [library, path, prompt] = process.argv.slice(2)
if (library === undefined || path === undefined || prompt === undefined) {
  throw new Error('usage: run.js LIBRARY MODEL PROMPT')
}
const { Model }: typeof import('flrc') = await import(pathToFileURL(library).href)
const begin = performance.now()
const model = await Model.load(path, { device: 'cpu' })
const loadSeconds = (performance.now() - begin) / 1000
for await (const _ of model.generate(prompt, { maxTokens: 1 })) break
const run: LoadRun = { loadSeconds, firstTokenSeconds: performance.now() / 1000 }
console.log(JSON.stringify(run))
