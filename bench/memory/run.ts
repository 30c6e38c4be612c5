/** Child process of bench/memory.ts, so that peaks and times are this one's own: prints one JSON line. */
import { Model } from 'flrc'
import { decodeRun } from '#lib/bench/decode.js'
import { cacheBytesPerPosition } from '#lib/model.js'
import { openModelSource } from '#lib/model-source.js'
import { Tokenizer } from '#lib/tokenizer.js'

export interface TokenizerRun {
  peakBytes: number
}

export interface DecodeMemoryRun extends TokenizerRun {
  /** Model.load alone. */
  loadSeconds: number
  /** Resident after loading. */
  loadedBytes: number
  weightBytes: number
  /** Keys and values of all positions. */
  cacheBytes: number
}

const prompt = 'The people of the town met every day at the market.'
const peakBytes = () => process.resourceUsage().maxRSS * 1024

async function loadTokenizer(path: string): Promise<TokenizerRun> {
  const { tokenizer, config } = await openModelSource(path)
  new Tokenizer(tokenizer(), { file: path, eosTokenIds: config.eosTokenIds }).encode(prompt)
  return { peakBytes: peakBytes() }
}

async function decode(path: string, dtype: 'bf16' | undefined, tokens: number): Promise<DecodeMemoryRun> {
  const begin = performance.now()
  const model = await Model.load(path, { dtype, device: 'cpu' })
  const loadSeconds = (performance.now() - begin) / 1000
  const loadedBytes = process.memoryUsage.rss()
  const ids = Array.from(model.tokenizer.encode(prompt))
  await decodeRun({ model }, ids, tokens, new AbortController().signal)
  const cacheBytes =
    (ids.length + tokens) * model.config.layers * cacheBytesPerPosition(model.config, model.dtype)
  return { peakBytes: peakBytes(), loadSeconds, loadedBytes, weightBytes: model.bytes, cacheBytes }
}

const [mode, path, dtype, tokens] = process.argv.slice(2)
if (path === undefined) throw new Error('usage: run.js tokenizer|decode MODEL [DTYPE TOKENS]')
const run = mode === 'tokenizer' ? loadTokenizer(path) : decode(path, dtype as 'bf16', Number(tokens))
console.log(JSON.stringify(await run))
