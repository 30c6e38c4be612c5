import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exportModel, Model } from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { temporaryDirectory } from './support/paths.js'

const root = temporaryDirectory()

test('what an export says of its tokenizer needs no code that lies elsewhere', async () => {
  const code = { AutoTokenizer: ['someone/own--tokenization_own.OwnTokenizer', null] }
  for (const [own, expected] of [
    [{ auto_map: code, tokenizer_class: 'OwnTokenizer' }, { tokenizer_class: 'PreTrainedTokenizerFast' }],
    [{ auto_map: code, tokenizer_class: 'GPT2Tokenizer' }, { tokenizer_class: 'GPT2Tokenizer' }],
    [{ auto_map: code }, {}],
    [{ tokenizer_class: 'OwnTokenizer' }, { tokenizer_class: 'OwnTokenizer' }],
  ]) {
    const [from, to] = [join(root, 'model'), join(root, 'export')]
    cpSync(tinyModel, from, { recursive: true })
    const file = (directory: string) => join(directory, 'tokenizer_config.json')
    const { tokenizer_class: _, ...config } = JSON.parse(readFileSync(file(from), 'utf8'))
    writeFileSync(file(from), JSON.stringify({ ...config, ...own }))
    const model = await Model.load(from)
    await exportModel(model, to, { overwrite: true })
    model.dispose()
    const { chat_template: _template, ...written } = JSON.parse(readFileSync(file(to), 'utf8'))
    const { chat_template: _own, ...rest } = config
    assert.equal(written, { ...rest, ...expected })
  }
})

test.run()
