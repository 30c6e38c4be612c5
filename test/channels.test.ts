import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { callNative, runTask } from '#lib/binding.js'
import { loadParts, nativeConfig } from '#lib/model.js'
import { openModelSource } from '#lib/model-source.js'
import type { NativeChannelOptions, NativeModel } from '#lib/native-types.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'

const {
  native: model,
  source,
  tokenizer,
} = await loadParts(await openModelSource(tinyModel), {
  dtype: 'bf16',
  threads: 2,
})
const width = source.config.intermediateSize
const group = 16
const seqLen = 128
const tokensOf = (file: string, windows: number) =>
  Int32Array.from(tokenizer.encode(readFileSync(path.join(tinyModel, file), 'utf8')).slice(0, windows * seqLen))
const tokens = tokensOf('calibration.txt', 32)

const options: NativeChannelOptions = {
  tokens,
  lengths: new Int32Array(32).fill(seqLen),
  labels: 'model',
  seed: 1,
  jitter: 1e-8,
  shrinkage: { inputs: 0.1, gradients: 0.5 },
  memory: 2 ** 30,
  scratch: tmpdir(),
  group,
}
const rank = (changed: Partial<NativeChannelOptions> = {}, signal?: AbortSignal, stages?: Set<string>) =>
  runTask(
    (addon, progress) => addon.rankChannels(model, { ...options, ...changed }, progress),
    [signal],
    ({ channels }) => callNative((addon) => addon.releaseChannels(channels)),
    ({ stage }) => stages?.add(stage),
  )

async function meanLoss(of: NativeModel, on: Int32Array): Promise<number> {
  const losses = await runTask((addon) => addon.windowLosses(of, on, seqLen, 0), [])
  return losses.reduce((sum, loss) => sum + loss, 0) / (losses.length * (seqLen - 1))
}

const stages = new Set<string>()
const ranking = await rank({}, undefined, stages)

test('costs rise from 0, in as many steps as leave a quarter of the channels', () => {
  assert.equal([...stages], ['channels'])
  assert.is(ranking.costs.length, source.config.layers)
  assert.is(ranking.lossTokens, 32 * (seqLen - 1))
  assert.ok(ranking.meanLoss > 1 && ranking.meanLoss < 6 && ranking.seconds > 0)
  for (const costs of ranking.costs) {
    assert.is(costs.length, (width * 3) / 4 / group + 1)
    assert.is(costs[0], 0)
    for (const [k, cost] of costs.entries()) assert.ok(k === 0 || cost > (costs[k - 1] ?? Number.NaN))
  }
})

test('a model with a quarter fewer channels loses about what the costs say', async () => {
  const k = width / 4 / group
  const widths = new Int32Array(source.config.layers).fill(width - k * group)
  const narrow = await runTask((addon) => addon.dropChannels(ranking.channels, widths), [])
  const shapes = callNative((addon) => addon.modelInfo(narrow)).shapes.slice(4, 7)
  assert.equal(shapes, [
    [width - k * group, 128],
    [width - k * group, 128],
    [128, width - k * group],
  ])
  const estimate = ranking.costs.reduce((sum, costs) => sum + (costs[k] ?? Number.NaN), 0) / ranking.lossTokens
  const heldout = tokensOf('heldout.txt', 16)
  const added = (await meanLoss(narrow, heldout)) - (await meanLoss(model, heldout))
  assert.ok(added > 0.3 * estimate && added < 3 * estimate, `${added} where ${estimate} was expected`)
  callNative((addon) => addon.releaseModel(narrow))
})

test('what a layer keeps is told, rising; widths that were not ranked are refused', async () => {
  const kept = callNative((addon) => addon.keptChannels(ranking.channels, 2, width - group))
  assert.is(kept.length, width - group)
  assert.equal(
    [...kept],
    [...new Set(kept)].sort((a, b) => a - b),
  )
  const internal = { code: 'E_INTERNAL' }
  await throwsFlrcError(
    () => callNative((addon) => addon.keptChannels(ranking.channels, 2, width - 1)),
    internal,
  )
  const wrong = new Int32Array(source.config.layers).fill(group)
  await throwsFlrcError(() => runTask((addon) => addon.dropChannels(ranking.channels, wrong), []), internal)
})

test('memory is told beforehand, and what is ranked without any is the same', async () => {
  const needs = callNative((addon) =>
    addon.channelMemory(nativeConfig(source.config), { sequences: 32, longest: seqLen, threads: 2 }),
  )
  assert.ok(needs.least > 2 ** 20 && needs.least < needs.everything && needs.everything < 2 ** 30)
  const spilled = await rank({ memory: 0 })
  assert.equal(spilled.costs, ranking.costs)
  callNative((addon) => addon.releaseChannels(spilled.channels))
})

test('ranking ends with E_ABORTED when asked to, and handles with E_DISPOSED once released', async () => {
  const controller = new AbortController()
  const pending = rank({}, controller.signal)
  controller.abort()
  await throwsFlrcError(() => pending, { code: 'E_ABORTED' })
  callNative((addon) => addon.releaseChannels(ranking.channels))
  await throwsFlrcError(() => callNative((addon) => addon.keptChannels(ranking.channels, 0, width)), {
    code: 'E_DISPOSED',
  })
})

test.run()
