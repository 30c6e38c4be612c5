import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readGguf } from '#lib/format/gguf.js'
import { ggufParts } from '#lib/format/gguf-split.js'
import { openModelSource } from '#lib/model-source.js'
import { throwsFlrcError } from './support/flrc-error.js'
import {
  type GgufField,
  type GgufTensorSpec,
  ggufBytes,
  type TinyGgufOptions,
  tinyGguf,
} from './support/gguf-writer.js'
import { temporaryDirectory } from './support/paths.js'

const root = temporaryDirectory()
const file = join(root, 'x.gguf')

async function openTiny(options: TinyGgufOptions) {
  writeFileSync(file, tinyGguf(options))
  return openModelSource(file)
}

/** Three tokens with their types: 1 is normal, 3 control, 4 user-defined. */
const tokens = (texts: string[], types: number[]): GgufField[] => [
  ['tokenizer.ggml.tokens', 'strings', texts],
  ['tokenizer.ggml.token_type', 'i32s', types],
]

test('tokens that end a turn end generation, though the file names another end', async () => {
  const endsOf = async (texts: string[], types: number[]) => {
    const { config, tokenizer } = await openTiny({ metadata: tokens(texts, types) })
    const added = tokenizer().tokenizer.added_tokens as { id: number; special: boolean }[]
    assert.ok(
      config.eosTokenIds.every((end) => end === 0 || added.some(({ id, special }) => id === end && special)),
    )
    return config.eosTokenIds
  }
  assert.equal(await endsOf(['<eos>', '<end_of_turn>', 'b'], [3, 3, 1]), [0, 1])
  assert.equal(await endsOf(['<|eot_id|>', '<|eom_id|>', '<|end_of_text|>'], [3, 3, 3]), [0, 1, 2])
  // Files of Gemma 3 have been published with turns' ends as common words.
  assert.equal(await endsOf(['<eos>', 'b', '<end_of_turn>'], [3, 1, 1]), [0, 2])
  assert.equal(await endsOf(['<|im_end|>', '</s>', '<|endoftext|>'], [3, 1, 4]), [0, 2])
  assert.equal(await endsOf(['<|im_end|>', '</s>', 'b'], [3, 3, 1]), [0, 1])
})

const spread: readonly GgufField[] = [
  ['gemma3.attention.key_length', 'u32', 4],
  ['gemma3.attention.sliding_window', 'u32', 16],
]

test("Gemma 3 by Ollama's converter", async () => {
  const open = async (more: readonly GgufField[], without: string[] = []) =>
    (
      await openTiny({
        architecture: 'gemma3',
        metadata: [...spread, ...more],
        without: without.map((key) => `gemma3.${key}`),
        tensors: [{ name: 'v.blk.0.attn_q.weight', dimensions: [8, 8] }],
      })
    ).config
  const named = await open([
    ['gemma3.rope.global.freq_base', 'f32', 500],
    ['gemma3.rope.local.freq_base', 'f32', 20],
    ['gemma3.final_logit_softcapping', 'f32', 30],
  ])
  const bases = (config: typeof named) => [config.source.rope_theta, config.source.rope_local_base_freq]
  assert.equal([...bases(named), named.source.rope_scaling], [500, 20, undefined])
  const long: GgufField = ['gemma3.context_length', 'u32', 131_072]
  const bare = await open([long], ['attention.layer_norm_rms_epsilon', 'context_length'])
  assert.equal([...bases(bare), bare.rmsNormEps], [1e6, 1e4, 1e-6])
  assert.equal(bare.source.rope_scaling, { rope_type: 'linear', factor: 8 })
  assert.is((await open([long], ['context_length'])).source.rope_scaling, undefined)
})

test('Mistral Small and Ministral 3, whose files are of one architecture', async () => {
  const small = await openTiny({ architecture: 'mistral3' })
  assert.equal(
    [small.config.architecture, small.config.slidingWindow, small.config.contextLength],
    ['mistral', [0], 64],
  )
  assert.is(small.tensors.get('model.layers.0.self_attn.q_proj.weight')?.interleavedHeads, 2)
  const { config } = await openTiny({
    architecture: 'mistral3',
    metadata: [
      ['mistral3.rope.freq_base', 'f32', 100],
      ['mistral3.rope.scaling.type', 'string', 'yarn'],
      ['mistral3.rope.scaling.factor', 'f32', 2],
      ['mistral3.rope.scaling.original_context_length', 'u32', 32],
      ['mistral3.rope.scaling.yarn_beta_fast', 'f32', 4],
      ['mistral3.rope.scaling.yarn_beta_slow', 'f32', 1],
      ['mistral3.rope.scaling.yarn_log_multiplier', 'f32', 1],
      ['mistral3.attention.temperature_scale', 'f32', 0.1],
    ],
  })
  assert.equal([config.architecture, config.contextLength, config.ropes[0]?.scale], ['ministral3', 32, 1])
  const { rope_parameters, rope_scaling, architectures } = config.source
  assert.equal([rope_scaling, architectures], [undefined, ['Ministral3ForCausalLM']])
  assert.equal(rope_parameters, {
    ...{ rope_type: 'yarn', factor: 2, original_max_position_embeddings: 32, beta_fast: 4, beta_slow: 1 },
    ...{ rope_theta: 100, mscale: 1, mscale_all_dim: 1, llama_4_scaling_beta: 0.1 },
  })
})

/** The tensors of tinyGguf dealt out to three files, and what llama-gguf-split writes beside them. */
function writeParts(folder: string, without?: number): string[] {
  mkdirSync(folder, { recursive: true })
  const all = [
    ['token_embd.weight', [8, 3]],
    ['output_norm.weight', [8]],
    ['blk.0.attn_norm.weight', [8]],
    ['blk.0.ffn_norm.weight', [8]],
    ['blk.0.attn_q.weight', [8, 8]],
    ['blk.0.attn_k.weight', [8, 4]],
    ['blk.0.attn_v.weight', [8, 4]],
    ['blk.0.attn_output.weight', [8, 8]],
    ['blk.0.ffn_gate.weight', [8, 12]],
    ['blk.0.ffn_up.weight', [8, 12]],
    ['blk.0.ffn_down.weight', [12, 8]],
  ] as const
  const specs = all.map(([name, dimensions]): GgufTensorSpec => ({ name, dimensions: [...dimensions] }))
  const names = ggufParts(join(folder, 'm-00001-of-00003.gguf')) ?? []
  names.forEach((name, no) => {
    const split: GgufField[] = [
      ['split.no', 'raw', { type: 2, bytes: Uint8Array.of(no, 0) }],
      ['split.count', 'raw', { type: 2, bytes: Uint8Array.of(3, 0) }],
      ['split.tensors.count', 'i32', specs.length],
    ]
    // As published: all of the metadata and no tensors in the first.
    const bytes =
      no === 0
        ? tinyGguf({ metadata: split, withoutTensors: specs.map(({ name }) => name) })
        : ggufBytes({ metadata: split, tensors: specs.filter((_, i) => i % 2 === no - 1) })
    if (no !== without) writeFileSync(name, bytes)
  })
  return names
}

test('a split model is read whole, by the name of any part', async () => {
  const parts = writeParts(join(root, 'split'))
  const first = await openModelSource(parts[0] ?? '')
  assert.is(first.tensors.size, 11)
  assert.is(
    first.fileBytes,
    parts.reduce((sum, part) => sum + readFileSync(part).length, 0),
  )
  const files = new Set([...first.tensors.values()].map((tensor) => tensor.file))
  assert.equal([...files].sort(), parts.slice(1))
  const last = await openModelSource(parts[2] ?? '')
  assert.equal(last.config, first.config)
  assert.equal([...last.tensors], [...first.tensors])
})

test('a split model that is not whole says which part is wrong', async () => {
  const [one = '', two = ''] = writeParts(join(root, 'lacks'), 1)
  await throwsFlrcError(() => readGguf(one), {
    code: 'E_NOT_FOUND',
    file: two,
    message: /one part of 3.*one folder/,
  })
  copyFileSync(one, two)
  await throwsFlrcError(() => readGguf(one), { code: 'E_MODEL_FORMAT', file: two, message: /no part 2 of 3/ })
  copyFileSync(one, file)
  await throwsFlrcError(() => readGguf(file), { code: 'E_MODEL_FORMAT', file, message: /split.*--merge/ })
  const whole = writeParts(join(root, 'twice'))
  const [, , three = ''] = whole
  const split: GgufField[] = [
    ['split.no', 'u32', 2],
    ['split.count', 'u32', 3],
  ]
  writeFileSync(
    three,
    ggufBytes({ metadata: split, tensors: [{ name: 'token_embd.weight', dimensions: [8] }] }),
  )
  const twice = { code: 'E_MODEL_FORMAT', file: three, tensor: 'token_embd.weight' }
  await throwsFlrcError(() => readGguf(whole[0] ?? ''), twice)
  writeFileSync(three, ggufBytes({ metadata: split }))
  await throwsFlrcError(() => readGguf(whole[0] ?? ''), { code: 'E_MODEL_FORMAT', message: /6 tensors.*11/ })
})

test('names of parts', () => {
  assert.equal(ggufParts('a/m-00002-of-00002.gguf'), ['a/m-00001-of-00002.gguf', 'a/m-00002-of-00002.gguf'])
  for (const name of ['m.gguf', 'm-00001-of-00001.gguf', 'm-00003-of-00002.gguf', 'm-1-of-2.gguf']) {
    assert.is(ggufParts(name), undefined, name)
  }
})

test.run()
