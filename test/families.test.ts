// Models that compute more than llama does, from files to results: against PyTorch, compressed, saved and exported.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { readBytes } from '#lib/format/files.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import { calibrate, complete, compress, exportModel, inspect, Model } from '#lib/index.js'
import { openModelSource } from '#lib/model-source.js'
import {
  assertLogits,
  assertScores,
  expectedArrays,
  modelDirectory,
  windowsOf,
} from './support/fixture-model.js'
import { fixture, temporaryDirectory } from './support/paths.js'
import { safetensorsBytes } from './support/safetensors-writer.js'

const root = temporaryDirectory()
const variants = ['smollm3', 'gemma3', 'granite']
const files = variants.flatMap((variant) => {
  const gguf = fixture(variant, 'model.gguf')
  return [
    { variant, file: modelDirectory(join(root, variant), variant), kind: 'safetensors' },
    { variant, file: gguf, kind: 'GGUF' },
  ]
})
const directoryOf = (variant: string) => join(root, variant)

const results = suite('against PyTorch')

for (const { variant, file, kind } of files) {
  results(`${variant}, ${kind}: logits, greedy tokens and scores`, async () => {
    const model = await Model.load(file, { dtype: 'f32' })
    const expected = await expectedArrays(variant)
    const windows = await windowsOf(variant)
    const length = windows[0]?.length ?? 0
    await assertLogits(model, variant, [
      [0, 1],
      [1, 12],
      [3, length],
    ])
    const { values: greedy } = await expected('greedy')
    const options = { maxTokens: greedy.length, temperature: 0 }
    assert.equal((await complete(model.generate(windows[0] ?? [], options))).tokenIds, Array.from(greedy))

    const calibration = await calibrate(model, { calibration: windows, seqLen: length, labels: 'data' })
    const { values: loss } = await expected('loss')
    assert.ok(Math.abs(calibration.meanLoss - (loss[0] ?? 0)) < 1e-5)
    await assertScores(calibration, variant)
    calibration.dispose()
    model.dispose()
  })
}

const reading = suite('files')

for (const variant of variants) {
  reading(`${variant}: a GGUF file says what the published config does`, async () => {
    const { source, ...parsed } = (await openModelSource(fixture(variant, 'model.gguf'))).config
    const { source: published, ...wanted } = (await openModelSource(directoryOf(variant))).config
    // In GGUF multipliers and bases are f32.
    const scales = ['embeddingScale', 'queryScale', 'residualScale', 'logitScale'] as const
    for (const scale of scales) {
      assert.ok(Math.abs(parsed[scale] - wanted[scale]) <= 1e-6 * wanted[scale], scale)
      parsed[scale] = wanted[scale]
    }
    assert.equal(parsed, wanted)
    assert.equal([source.architectures, source.model_type], [published.architectures, published.model_type])
    const { config } = await inspect(directoryOf(variant))
    assert.is(config.architecture, published.model_type)
  })
}

reading('a Gemma 3 that also sees is read as the language model that it has', async () => {
  const seeing = modelDirectory(join(root, 'gemma3-seeing'), 'gemma3')
  const published = JSON.parse(readFileSync(join(seeing, 'config.json'), 'utf8'))
  const { architectures: _, ...text_config } = published
  writeFileSync(
    join(seeing, 'config.json'),
    JSON.stringify({ architectures: ['Gemma3ForConditionalGeneration'], model_type: 'gemma3', text_config }),
  )
  const { tensors } = await readSafetensors(fixture('gemma3', 'model.safetensors'))
  const vision = { name: 'vision_tower.head.probe', dtype: 'F32', shape: [1], data: Buffer.alloc(4) }
  const renamed = [...tensors.values()].map(async ({ name, dtype, shape, file, offset, byteLength }) => {
    return { name: `language_model.${name}`, dtype, shape, data: await readBytes(file, offset, byteLength) }
  })
  writeFileSync(join(seeing, 'model.safetensors'), safetensorsBytes([...(await Promise.all(renamed)), vision]))
  const prompt = (await windowsOf('gemma3'))[0] ?? []
  const written = []
  for (const directory of [seeing, directoryOf('gemma3')]) {
    const model = await Model.load(directory, { dtype: 'f32' })
    assert.equal(model.config.source.architectures, ['Gemma3ForCausalLM'])
    written.push((await complete(model.generate(prompt, { maxTokens: 8, temperature: 0 }))).tokenIds)
    model.dispose()
  }
  assert.equal(written[0], written[1])
})

const round = suite('compressed, saved, exported')

/** Tensors of a directory by name, with their bytes. */
async function contents(directory: string): Promise<Record<string, string>> {
  const { tensors } = await readSafetensors(join(directory, 'model.safetensors'))
  const entries = [...tensors.values()].map(async ({ name, file, offset, byteLength, shape }) => {
    return [name, `${shape}: ${(await readBytes(file, offset, byteLength)).toString('base64')}`] as const
  })
  return Object.fromEntries((await Promise.all(entries)).sort(([a], [b]) => (a < b ? -1 : 1)))
}

for (const { variant, file, kind } of files) {
  round(`${variant}, ${kind}: an export holds the very tensors that transformers saved`, async () => {
    const model = await Model.load(file, { dtype: 'f32' })
    const to = join(root, `${variant}-${kind}-export`)
    await exportModel(model, to)
    assert.equal(await contents(to), await contents(fixture(variant)))
    const { config } = await openModelSource(to)
    assert.equal({ ...config, source: 0 }, { ...model.config, source: 0 })
    model.dispose()
  })
}

for (const variant of variants) {
  round(`${variant}: every method cuts, a checkpoint gives the same tokens, drafts change none`, async () => {
    const model = await Model.load(directoryOf(variant), { dtype: 'f32' })
    const windows = await windowsOf(variant)
    const calibration = await calibrate(model, { calibration: windows, seqLen: 40, inputMoments: true })
    const prompt = windows[0]?.subarray(0, 20) ?? []
    for (const method of ['uniform', 'fisher', 'energy', 'curve', 'asvd'] as const) {
      // A search of its own, for one level.
      const how = method === 'asvd' ? { calibration: windows } : { calibration, levels: [0.8, 0.5] }
      const small = await compress(model, { keep: 0.8, method, ...how })
      const directory = join(root, `${variant}-${method}`)
      await small.save(directory)
      const again = await Model.load(directory)
      const written = []
      for (const from of [small, again]) {
        for (const speculate of [undefined, ...(method === 'asvd' ? [] : [{ tokens: 3, budget: 0.5 }])]) {
          written.push(
            (await complete(from.generate(prompt, { maxTokens: 12, temperature: 0, speculate }))).tokenIds,
          )
        }
      }
      for (const tokens of written) assert.equal(tokens, written[0], method)
      const { flrc } = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
      assert.is(flrc.source.model_type, model.config.architecture)
      small.dispose()
      again.dispose()
    }
    calibration.dispose()
    model.dispose()
  })
}

results.run()
reading.run()
round.run()
