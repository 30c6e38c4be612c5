/**
 * node-llama-cpp's side of bench/llama.ts, as the text of a program that runs in the folder where it is installed
 * (`node PROGRAM THREADS CONTEXT MODEL.gguf ...`) and answers the lines that bench/llama_decode.py does.
 */
export const nodeLlamaProgram = `
import { createInterface } from 'node:readline'
import { getLlama } from 'node-llama-cpp'

const [threads, contextSize, ...paths] = process.argv.slice(2)
const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false, logLevel: 'error' })
const sequences = []
for (const modelPath of paths) {
  const model = await llama.loadModel({ modelPath })
  const options = { contextSize: Number(contextSize), batchSize: Number(contextSize), threads: Number(threads) }
  sequences.push((await model.createContext(options)).getSequence())
}
console.log(JSON.stringify({ ready: sequences.length }))
for await (const line of createInterface({ input: process.stdin })) {
  const { model, prompt, tokens } = JSON.parse(line)
  const sequence = sequences[model]
  await sequence.clearHistory()
  const begin = performance.now()
  let first = begin
  let made = 0
  // The first token comes from the prompt.
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (made === 0) first = performance.now()
    if (made++ === tokens) break
  }
  const decode = (performance.now() - first) / 1000
  console.log(JSON.stringify({ prefill: (first - begin) / 1000, decode }))
}
`
