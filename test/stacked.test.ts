import { readFile } from 'node:fs/promises'
import { complete, compress, Model } from 'flrc'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { writeEach } from '#lib/evaluate/write.js'
import { loadParts, type ModelParts } from '#lib/model.js'
import { openModelSource } from '#lib/model-source.js'
import { parseSchedule } from '#lib/schedule.js'
import { stacked } from '#lib/stacked.js'
import { runCli } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { repository, temporaryDirectory } from './support/paths.js'

const tiny = repository('models', 'tiny')
const directory = `${temporaryDirectory()}/joint`

test.before(async () => {
  const calibration = [await readFile(`${tiny}/calibration.txt`, 'utf8')]
  const dense = await Model.load(tiny)
  const options = { keep: 0.9, levels: [0.9, 0.6], calibration, samples: 4, seqLen: 64 }
  const model = await compress(dense, options)
  await model.save(directory)
  model.dispose()
  dense.dispose()
})

/** One level of the checkpoint, as a model of its own. */
async function levelOf(level: 0 | 1, dtype: 'bf16' | 'f32' = 'bf16'): Promise<ModelParts> {
  const { flrc, tensors, ...source } = await openModelSource(directory)
  if (flrc === undefined) throw new Error('the checkpoint has levels')
  const levels = flrc.levels.slice(level, level + 1)
  const stored = Array.from(tensors).filter(([name]) => level === 0 || !/\.[PCI]\.1$/.test(name))
  const own = { ...flrc, levels, keep: level === 0 ? flrc.keep : (levels[0]?.budget ?? 1) }
  return loadParts({ ...source, tensors: new Map(stored), flrc: own }, { dtype, threads: 0 })
}

const prompts = ['Once upon a time', 'The king', 'A cat sat on the wall and', 'Rain']
const schedules = ['step:.9:.6:6', 'step:.6:.9:4', 'step:.9:.6:1', 'linear:.9:.6:12'].map(parseSchedule)

test('levels of two models give what the same levels of one give, one by one and side by side', async () => {
  await using joint = await Model.load(directory)
  await using both = new Model(stacked(await levelOf(0), new Model(await levelOf(1))))
  assert.equal(
    both.levels.map(({ budget, parameters, bytesPerToken }) => [budget, parameters, bytesPerToken]),
    joint.levels.map(({ budget, parameters, bytesPerToken }) => [budget, parameters, bytesPerToken]),
  )
  const asked = prompts.map((text) => ({ id: text, tokens: Array.from(joint.tokenizer.encode(text)) }))
  const options = { maxTokens: 16, signal: undefined }
  const written = async (model: Model) =>
    (await writeEach(model, asked, schedules, options)).map((ofPrompt) =>
      ofPrompt.map(({ tokenIds, levels }) => ({ tokenIds, levels })),
    )
  const expected = await written(joint)
  assert.equal(await written(both), expected)
  assert.ok(expected[0]?.[0]?.levels.includes(1))
  for (const [index, text] of prompts.entries()) {
    const tokenIds: number[] = []
    const logprobs: number[][] = []
    for (const model of [joint, both]) {
      const own: number[] = []
      for await (const piece of model.generate(text, { maxTokens: 16, schedule: schedules[0] })) {
        if (model === both) tokenIds.push(piece.tokenId)
        own.push(piece.logprob)
      }
      logprobs.push(own)
    }
    assert.equal(tokenIds, expected[index]?.[0]?.tokenIds)
    assert.equal(logprobs[0], logprobs[1])
  }
})

test('levels that share no weights are stored beside each other, the embeddings once', async () => {
  await using dense = await Model.load(tiny)
  await using small = await Model.load(directory)
  await using both = await Model.load(tiny, { below: directory })
  const shared = both.storedBytes - dense.storedBytes - small.storedBytes
  assert.ok(shared < 0 && -shared < dense.storedBytes)
  assert.is(both.bytes, dense.bytes + small.bytes)
  await throwsFlrcError(() => both.generate('A', { speculate: { tokens: 2, budget: 0.6 } }).next(), {
    code: 'E_USAGE',
  })
})

test('a checkpoint is loaded below a model, whose schedule then falls to it', async () => {
  const schedule = parseSchedule('step:1:.9:4')
  await using both = await Model.load(tiny, { below: directory })
  assert.equal(
    both.levels.map(({ budget }) => Math.round(10 * budget) / 10),
    [1, 0.9, 0.6],
  )
  const fallen = await complete(both.generate('The king', { maxTokens: 8, schedule }))
  assert.equal(fallen.levels, [0, 0, 0, 0, 1, 1, 1, 1])
  await using dense = await Model.load(tiny)
  const alone = await complete(dense.generate('The king', { maxTokens: 4 }))
  assert.equal(fallen.tokenIds.slice(0, 4), alone.tokenIds)
  const windows = Int32Array.from(both.tokenizer.encode('Once upon a time there was a king')).slice(0, 8)
  await using small = await Model.load(directory)
  assert.equal(await both.windowLosses(windows, 8, 1, {}), await small.windowLosses(windows, 8, 0, {}))
  const args = ['generate', tiny, '--below', directory, '--schedule', 'step:1:.9:4', '--max-tokens', '8']
  const { stdout } = await runCli([...args, '-p', 'The king', '--json'])
  assert.equal(JSON.parse(stdout).levels, [0, 0, 0, 0, 1, 1, 1, 1])
  await throwsFlrcError(() => Model.load(directory, { below: directory }), {
    code: 'E_USAGE',
    message: /budget/,
  })
  await throwsFlrcError(() => Model.load(tiny, { below: directory, device: 'cuda' }), { code: 'E_DEVICE' })
})

test('a model of another cache or of no smaller budget is refused', async () => {
  await using wide = new Model(await levelOf(1, 'f32'))
  await using same = new Model(await levelOf(0))
  const top = await levelOf(0)
  await throwsFlrcError(() => stacked(top, wide), { code: 'E_USAGE', message: /cached/ })
  await throwsFlrcError(() => stacked(top, same), { code: 'E_USAGE', message: /budget/ })
  new Model(top).dispose()
})

test('levels end with the model whose they are', async () => {
  const below = new Model(await levelOf(1))
  const both = new Model(stacked(await levelOf(0), below))
  both.dispose()
  assert.ok(below.disposed)
  await throwsFlrcError(() => both.generate('A').next(), { code: 'E_DISPOSED' })
})

test.run()
