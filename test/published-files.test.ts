import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { modelConfig } from '#lib/format/config.js'
import { readBytes } from '#lib/format/files.js'
import { openModelSource } from '#lib/model-source.js'
import { modelDirectory } from './support/fixture-model.js'
import { fixture, temporaryDirectory } from './support/paths.js'
import { safetensorsBytes } from './support/safetensors-writer.js'

const root = temporaryDirectory()
let made = 0

/** A fixture's directory as the language model of one that also sees, its head on its own. */
async function seeing(variant: string, config: (text: object) => object, prefix: string): Promise<string> {
  const directory = modelDirectory(join(root, `sees-${variant}-${made++}`), variant)
  const { architectures: _, ...text } = JSON.parse(readFileSync(fixture(variant, 'config.json'), 'utf8'))
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config(text)))
  const { tensors } = await openModelSource(fixtureDirectory(variant))
  const own = await Promise.all(
    [...tensors.values()].map(async ({ name, file: from, offset, byteLength, shape }) => ({
      name: `${prefix}${name}`,
      dtype: 'F32',
      shape,
      data: await readBytes(from, offset, byteLength),
    })),
  )
  const seen = { name: 'vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight', shape: [4, 4] }
  writeFileSync(join(directory, 'model.safetensors'), safetensorsBytes([...own, seen]))
  return directory
}
const fixtureDirectory = (variant: string) => modelDirectory(join(root, `own-${variant}`), variant)

test('Mistral Small 3 that also sees: its language model, and its head', async () => {
  const directory = await seeing(
    'mistral',
    (text) => ({ model_type: 'mistral3', text_config: text }),
    'language_model.',
  )
  const source = await openModelSource(directory)
  const alone = await openModelSource(fixtureDirectory('mistral'))
  assert.equal([...source.tensors.keys()].sort(), [...alone.tensors.keys()].sort())
  assert.is(source.tensors.get('lm_head.weight')?.storedName, 'language_model.lm_head.weight')
  const { source: _s, ...config } = source.config
  const { source: _a, ...expected } = alone.config
  assert.equal(config, expected)
  assert.equal(source.config.source.architectures, ['MistralForCausalLM'])
})

test('the head of a model that also sees is the embedding where its files hold none, whatever its config says', async () => {
  const says = (tied: boolean) => (text: object) => ({
    ...{ model_type: 'gemma3', tie_word_embeddings: !tied },
    text_config: { ...text, tie_word_embeddings: tied },
  })
  const tied = (await openModelSource(await seeing('gemma3', says(false), 'language_model.'))).config
  assert.equal([tied.tieEmbeddings, tied.source.tie_word_embeddings], [true, true])
  const own = (
    await openModelSource(
      await seeing('mistral', (text) => ({ ...says(true)(text), model_type: 'mistral3' }), 'language_model.'),
    )
  ).config
  assert.equal([own.tieEmbeddings, own.source.tie_word_embeddings], [false, false])
})

test('Ministral 3, which sees too', async () => {
  const directory = await seeing(
    'ministral3',
    (text) => ({ model_type: 'mistral3', text_config: text }),
    'language_model.',
  )
  const { config, tensors } = await openModelSource(directory)
  assert.equal([config.architecture, config.contextLength, config.tieEmbeddings], ['ministral3', 64, true])
  assert.equal(config.source.architectures, ['Ministral3ForCausalLM'])
  assert.is(tensors.size, (await openModelSource(fixtureDirectory('ministral3'))).tensors.size)
})

test('cwm: end tokens that its configuration leaves out', () => {
  const {
    eos_token_id: _e,
    bos_token_id: _b,
    ...cwm
  } = JSON.parse(readFileSync(fixture('cwm', 'config.json'), 'utf8'))
  const config = modelConfig(cwm, undefined, 'config.json')
  assert.equal([config.bosTokenId, config.eosTokenIds], [128_000, [128_001, 128_008, 128_009]])
  assert.equal(modelConfig({ ...cwm, eos_token_id: 7 }, undefined, 'config.json').eosTokenIds, [7])
  assert.equal(modelConfig(cwm, { eos_token_id: 8 }, 'config.json').eosTokenIds, [8])
})

test('chat templates beside the processor of models that also see', async () => {
  const directory = fixtureDirectory('llama')
  const template = async () => (await openModelSource(directory)).tokenizer().chatTemplate
  writeFileSync(join(directory, 'chat_template.json'), JSON.stringify({ chat_template: 'of the processor' }))
  rmSync(join(directory, 'tokenizer_config.json'))
  assert.is(await template(), 'of the processor')
  writeFileSync(join(directory, 'tokenizer_config.json'), JSON.stringify({ chat_template: 'of the tokenizer' }))
  assert.is(await template(), 'of the tokenizer')
})

test.run()
