/**
 * Decode kernels against the memory: `npm run bench -- kernels [--chain "smollm2-135m layer" --dtype int8 ...]`.
 *
 * Projections of Llama-3-8B and the whole layer of SmolLM2-135M, dense, as plain factors and as pivoted blocks, in
 * every type, cycling through `--bytes` of weights. Each timing stands beside the read bandwidth that as many threads
 * reached just before it. `--columns 1,2,4` multiplies several tokens at a time. `--json FILE` adds the rows to a file
 * and replaces those measured again; `--tables` prints what the file holds and measures nothing.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { packageRoot } from '#lib/binding.js'
import { parseBytes } from '#lib/cli/options.js'
import { medianOf } from '#lib/statistics/median.js'
import { type KernelResults, type KernelRow, kernelTables, sameCase } from './kernels/tables.js'
import { outputOf } from './support/child.js'

/** `+` between projections of one input, `,` between one after another. */
const chains: Record<string, string> = {
  'llama-3-8b q': '4096x4096',
  'llama-3-8b k': '1024x4096',
  'llama-3-8b gate': '14336x4096',
  'llama-3-8b down': '4096x14336',
  'smollm2-135m layer': '576x576+192x576+192x576,576x576,1536x576+1536x576,576x1536',
}

const { values } = parseArgs({
  options: {
    chain: { type: 'string', multiple: true, default: Object.keys(chains) },
    kind: { type: 'string', multiple: true, default: ['dense', 'plain', 'pivoted'] },
    dtype: { type: 'string', multiple: true, default: ['f32', 'bf16', 'int8', 'int4'] },
    rank: { type: 'string', multiple: true, default: ['64', '256', '512', '1024'] },
    threads: { type: 'string', default: [...new Set([1, availableParallelism()])].join() },
    columns: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '5' },
    bytes: { type: 'string', default: '1GB' },
    json: { type: 'string' },
    tables: { type: 'boolean', default: false },
  },
})

interface Measured {
  target: string
  bytes: number
  timings: { threads: number; columns: number; seconds: number[]; bandwidth: number[] }[]
}

const results: KernelResults = await read(values.json)
if (!values.tables) {
  for (const chain of values.chain) {
    const shape = chains[chain]
    if (shape === undefined) throw new Error(`no chain ${chain}; there are ${Object.keys(chains).join(', ')}`)
    for (const dtype of values.dtype) {
      for (const kind of values.kind) {
        for (const rank of kind === 'dense' ? [0] : values.rank.map(Number)) {
          await measure(chain, shape, { kind, dtype, rank })
        }
      }
    }
  }
}
console.log(kernelTables(results))

async function measure(
  chain: string,
  shape: string,
  { kind, dtype, rank }: Pick<KernelRow, 'kind' | 'dtype' | 'rank'>,
): Promise<void> {
  const { threads, columns, rounds, bytes } = values
  const args = [shape, kind, dtype, String(rank), threads, columns, rounds, String(parseBytes(bytes))]
  const measured = JSON.parse(await runChild(args)) as Measured
  results.target = measured.target
  for (const { seconds, bandwidth, ...timing } of measured.timings) {
    const shares = seconds.map((second, round) => measured.bytes / second / (bandwidth[round] ?? 0))
    const row: KernelRow = {
      ...{ chain, kind, dtype, rank, ...timing, bytes: measured.bytes },
      bytesPerSecond: medianOf(seconds.map((second) => measured.bytes / second)),
      bandwidth: medianOf(bandwidth),
      share: medianOf(shares),
      shareSpread: [Math.min(...shares), Math.max(...shares)],
    }
    results.rows = [...results.rows.filter((other) => !sameCase(other, row)), row]
    console.error(JSON.stringify(row))
  }
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(results, null, 2)}\n`)
}

async function read(file: string | undefined): Promise<KernelResults> {
  const text = file === undefined ? undefined : await readFile(file, 'utf8').catch(() => undefined)
  return text === undefined ? { target: '', rows: [] } : (JSON.parse(text) as KernelResults)
}

/** What the native program prints, once it has ended well. */
function runChild(args: readonly string[]): Promise<string> {
  return outputOf(path.join(packageRoot, 'build/Release/flrc_bench'), args, 'the benchmark')
}
