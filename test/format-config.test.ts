import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { architectures, modelConfig } from '#lib/format/config.js'
import { fusedProjections, isModelTensor, projectionNames } from '#lib/format/projections.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import type { ModelConfig, Rope } from '#lib/format/types.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { fixture } from './support/paths.js'

const file = 'config.json'
const base = {
  model_type: 'llama',
  vocab_size: 96,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  hidden_act: 'silu',
}
const parse = (more: object = {}, generation?: Record<string, unknown>) =>
  modelConfig({ ...base, ...more }, generation, file)

function onlyRope({ ropes, layerRope }: ModelConfig): Rope {
  assert.ok(layerRope.every((rope) => rope === 0))
  const [rope] = ropes
  assert.ok(rope && ropes.length === 1)
  return rope
}

interface RopeCase {
  name: string
  config: { head_dim: number; rope_theta: number; max_position_embeddings: number; rope_scaling: object | null }
  invFreq: number[]
  attentionScaling: number
}

const ropeCases: RopeCase[] = JSON.parse(readFileSync(fixture('rope.json'), 'utf8'))

test('there are fixtures for every kind of scaling', () => {
  assert.ok(ropeCases.length >= 10)
  for (const kind of ['default', 'dynamic', 'linear', 'llama3', 'longrope', 'yarn']) {
    assert.ok(ropeCases.some(({ name }) => name.startsWith(kind)))
  }
})

for (const { name, config, invFreq, attentionScaling } of ropeCases) {
  const shape = { hidden_size: 2 * config.head_dim, num_attention_heads: 2 }
  const check = (fields: object) => {
    const { frequencies, scale } = onlyRope(parse({ ...shape, ...fields }))
    assert.is(frequencies.length, invFreq.length)
    frequencies.forEach((frequency, i) => {
      const expected = invFreq[i] ?? Number.NaN
      // transformers computes in float32: some roundings of 6e-8 each.
      assert.ok(Math.abs(frequency - expected) <= 1e-6 * expected, `pair ${i}: ${frequency} for ${expected}`)
    })
    assert.ok(Math.abs(scale - attentionScaling) < 1e-12)
  }

  test(`rope ${name} as transformers computes it, as rope_scaling and as rope_parameters`, () => {
    check(config)
    const { rope_scaling, rope_theta, ...rest } = config
    const parameters = { rope_type: 'default', ...rope_scaling, rope_theta }
    if ('type' in parameters) parameters.rope_type = String(parameters.type)
    check({ ...rest, rope_parameters: parameters })
  })
}

test('rope_scaling that is empty is as good as missing', () => {
  const given = { rope_type: 'linear', factor: 4, rope_theta: 100 }
  for (const model_type of ['llama', 'cwm', 'ministral3'])
    for (const rope_parameters of [given, {}, undefined]) {
      const { ropes } = parse({ model_type, rope_parameters })
      assert.equal(parse({ model_type, rope_parameters, rope_scaling: {} }).ropes, ropes)
    }
  const rope_parameters = { full_attention: given }
  const { ropes } = parse({ ...gemma, rope_parameters })
  assert.equal(parse({ ...gemma, rope_parameters, rope_scaling: {} }).ropes, ropes)
})

test('rope factors of checkpoints that earlier versions made', () => {
  const plain = onlyRope(parse()).frequencies
  const { frequencies } = onlyRope(parse({ flrc_rope_factors: [1, 2, 4, 8] }))
  assert.equal(
    frequencies,
    plain.map((f, i) => Math.fround(f / 2 ** i)),
  )
})

test("llama's fields and defaults", () => {
  const config = parse()
  assert.equal(
    {
      ...config,
      ropes: config.ropes.map(({ frequencies, scale }) => [frequencies.length, scale]),
      source: undefined,
    },
    {
      architecture: 'llama',
      layers: 3,
      hiddenSize: 32,
      heads: 4,
      kvHeads: 2,
      headDim: 8,
      intermediateSize: 48,
      vocabSize: 96,
      contextLength: 128,
      rmsNormEps: 1e-5,
      tieEmbeddings: false,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      qkNorm: false,
      outputNorms: false,
      normOffset: 0,
      activation: 'silu',
      embeddingScale: 1,
      queryScale: 1,
      residualScale: 1,
      logitScale: 1,
      slidingWindow: [0, 0, 0],
      ropes: [[4, 1]],
      layerRope: [0, 0, 0],
      bosTokenId: undefined,
      eosTokenIds: [],
      source: undefined,
    },
  )
  assert.is(config.source.hidden_size, 32)
  assert.is(parse({ num_key_value_heads: undefined }).kvHeads, 4)
  assert.is(parse({ num_key_value_heads: null }).kvHeads, 4)
  assert.is(parse({ max_position_embeddings: undefined }).contextLength, 2048)
  assert.is(parse({ rms_norm_eps: undefined }).rmsNormEps, 1e-6)
  assert.is(parse({ head_dim: 16 }).headDim, 16)
  assert.is(parse({ tie_word_embeddings: true }).tieEmbeddings, true)
})

const biasesOf = (more: object) => {
  const { qkvBias, outputBias, mlpBias } = parse(more)
  return [qkvBias, outputBias, mlpBias]
}

test('biases as each architecture has them', () => {
  assert.equal(biasesOf({ attention_bias: true }), [true, true, false])
  assert.equal(biasesOf({ mlp_bias: true }), [false, false, true])
  assert.equal(biasesOf({ model_type: 'mistral', attention_bias: true, mlp_bias: true }), [false, false, false])
  assert.equal(biasesOf({ model_type: 'qwen2' }), [true, false, false])
  assert.equal(biasesOf({ model_type: 'qwen3' }), [false, false, false])
  assert.equal(biasesOf({ model_type: 'qwen3', attention_bias: true }), [true, true, false])
})

test('qwen3 norms its heads, whose dimension is 128 unless said', () => {
  const config = parse({ model_type: 'qwen3' })
  assert.equal([config.qkNorm, config.headDim], [true, 128])
  assert.is(parse({ model_type: 'qwen3', head_dim: 16 }).headDim, 16)
})

test('phi3: positions of longrope are those it was trained on, by three names', () => {
  const factors = { short_factor: [1, 2, 2, 2], long_factor: [1, 4, 4, 4] }
  const phi3 = (more: object) => parse({ model_type: 'phi3', max_position_embeddings: 131_072, ...more })
  for (const type of ['longrope', 'su', 'yarn']) {
    const config = phi3({ rope_scaling: { type, ...factors } })
    const { contextLength } = config
    const { frequencies, scale } = onlyRope(config)
    assert.is(contextLength, 4096)
    assert.ok(Math.abs(scale - Math.sqrt(1 + Math.log(32) / Math.log(4096))) < 1e-12)
    assert.equal(frequencies[1], Math.fround(0.05))
  }
  assert.is(phi3({}).contextLength, 131_072)
  assert.is(phi3({ max_position_embeddings: 512, rope_scaling: { type: 'su', ...factors } }).contextLength, 512)
  // As many pairs as the dimensions that transformers rotates give, rounded up.
  const frequencies = (partial_rotary_factor: number) => onlyRope(phi3({ partial_rotary_factor })).frequencies
  assert.equal(
    frequencies(0.75),
    [0, 1, 2].map((i) => Math.fround(10_000 ** ((-2 * i) / 6))),
  )
  assert.equal(
    frequencies(0.7),
    [0, 1, 2].map((i) => Math.fround(10_000 ** ((-2 * i) / 5))),
  )
  const { qkvBias, slidingWindow, rmsNormEps, kvHeads } = phi3({
    ...{ attention_bias: true, num_key_value_heads: null, rms_norm_eps: undefined },
  })
  assert.equal([qkvBias, slidingWindow, rmsNormEps, kvHeads], [false, [0, 0, 0], 1e-5, 4])
  assert.equal(phi3({ sliding_window: 2047 }).slidingWindow, [2047, 2047, 2047])
})

test('models that are Llama by another name, as their configurations leave it out', () => {
  assert.equal(biasesOf({ model_type: 'seed_oss' }), [true, false, false])
  assert.equal(
    biasesOf({ model_type: 'seed_oss', attention_bias: false, attention_out_bias: true, mlp_bias: true }),
    [false, true, true],
  )
  assert.equal(biasesOf({ model_type: 'internlm3', qkv_bias: true, bias: true }), [true, true, true])
  assert.equal(biasesOf({ model_type: 'iquestcoder', attention_bias: true }), [true, true, false])
  assert.equal(biasesOf({ model_type: 'cwm', attention_bias: true }), [false, false, false])
  const cwm = {
    model_type: 'cwm',
    num_hidden_layers: 5,
    num_key_value_heads: undefined,
    num_attention_heads: 8,
  }
  assert.equal(parse(cwm).slidingWindow, [0, 8192, 8192, 8192, 0])
  assert.equal([parse(cwm).headDim, parse({ ...cwm, head_dim: null }).headDim, parse(cwm).kvHeads], [128, 4, 8])
  const ministral = { model_type: 'ministral', sliding_window: 8 }
  assert.equal(parse(ministral).slidingWindow, [8, 8, 8])
  const layer_types = ['full_attention', 'sliding_attention', 'full_attention']
  assert.equal(parse({ ...ministral, layer_types }).slidingWindow, [0, 8, 0])
})

test('ministral3: positions before its queries are scaled', () => {
  const ministral3 = { model_type: 'ministral3', max_position_embeddings: undefined }
  assert.is(parse(ministral3).contextLength, 16_384)
  const own = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32, rope_theta: 1e4 }
  const positions = (more: object) =>
    parse({ ...ministral3, max_position_embeddings: 128, rope_parameters: { ...own, ...more } }).contextLength
  assert.equal(
    [positions({ llama_4_scaling_beta: 0.1 }), positions({ llama_4_scaling_beta: 0 }), positions({})],
    [32, 128, 128],
  )
})

test('sliding windows by layer', () => {
  const windows = (more: object) => parse(more).slidingWindow
  assert.equal(windows({ model_type: 'mistral', sliding_window: 8 }), [8, 8, 8])
  assert.equal(windows({ model_type: 'mistral', sliding_window: null }), [0, 0, 0])
  assert.equal(windows({ model_type: 'mistral' }), [4096, 4096, 4096])
  const qwen = { model_type: 'qwen2', sliding_window: 8 }
  assert.equal(windows(qwen), [0, 0, 0])
  assert.equal(windows({ ...qwen, use_sliding_window: true }), [0, 0, 0])
  assert.equal(windows({ ...qwen, use_sliding_window: true, max_window_layers: 1 }), [0, 8, 8])
  const layer_types = ['sliding_attention', 'full_attention', 'sliding_attention']
  assert.equal(windows({ ...qwen, use_sliding_window: true, layer_types }), [8, 0, 8])
  assert.equal(windows({ ...qwen, model_type: 'qwen3', layer_types }), [0, 0, 0])
})

test('smollm3: layers whose heads nothing turns, by interval or by list, and windows for them alone', () => {
  const config = parse({ model_type: 'smollm3', num_hidden_layers: 5 })
  assert.equal(config.layerRope, [0, 0, 0, -1, 0])
  assert.is(config.ropes[0]?.frequencies[1], Math.fround(2e6 ** -0.25))
  assert.equal(
    [config.tieEmbeddings, parse({ model_type: 'smollm3', num_key_value_heads: undefined }).kvHeads],
    [true, 4],
  )
  const of = (more: object) => parse({ model_type: 'smollm3', ...more })
  assert.equal(of({ no_rope_layer_interval: 2 }).layerRope, [0, -1, 0])
  const listed = { no_rope_layer_interval: 2, no_rope_layers: [0, 1, 1, 0] }
  assert.equal(of(listed).layerRope, [-1, 0, 0])
  assert.equal(of({ ...listed, sliding_window: 8 }).slidingWindow, [0, 0, 0])
  assert.equal(of({ ...listed, sliding_window: 8, use_sliding_window: true }).slidingWindow, [8, 0, 0])
})

const gemma = { model_type: 'gemma3_text', hidden_act: undefined, head_dim: 16, sliding_window: 8 }

test('gemma3: norms, activation and scales of its own, and what a config may leave out', () => {
  const config = parse(gemma)
  assert.equal(
    [config.qkNorm, config.outputNorms, config.normOffset, config.activation, config.tieEmbeddings],
    [true, true, 1, 'gelu-tanh', true],
  )
  assert.equal(
    [config.embeddingScale, config.queryScale, config.residualScale, config.logitScale],
    [Math.sqrt(32), 0.25, 1, 1],
  )
  assert.is(parse({ ...gemma, query_pre_attn_scalar: 4 }).queryScale, 2)
  const { headDim, kvHeads, contextLength } = parse({
    ...gemma,
    ...{ head_dim: undefined, num_key_value_heads: undefined, max_position_embeddings: undefined },
  })
  assert.equal([headDim, kvHeads, contextLength], [256, 4, 131_072])
})

test('gemma3: most layers slide, and turn by another base; scaling is for the others', () => {
  const seven = parse({ ...gemma, num_hidden_layers: 7 })
  assert.equal(seven.slidingWindow, [8, 8, 8, 8, 8, 0, 8])
  assert.equal(seven.layerRope, [1, 1, 1, 1, 1, 0, 1])
  assert.equal(parse({ ...gemma, sliding_window_pattern: 2 }).layerRope, [1, 0, 1])
  const layer_types = ['full_attention', 'sliding_attention', 'full_attention']
  assert.equal(parse({ ...gemma, layer_types, sliding_window: null }).layerRope, [0, 1, 0])

  const second = (more: object) =>
    parse({ ...gemma, head_dim: 4, ...more }).ropes.map(({ frequencies }) => frequencies[1])
  assert.equal(second({}), [Math.fround(1e-3), Math.fround(1e-2)])
  const rope_scaling = { rope_type: 'linear', factor: 8 }
  const published = { rope_theta: 1e4, rope_local_base_freq: 100, rope_scaling }
  const expected = [Math.fround(1e-2 / 8), Math.fround(0.1)]
  assert.equal(second(published), expected)
  const sliding_attention = { rope_type: 'default', rope_theta: 100 }
  const rope_parameters = { full_attention: { ...rope_scaling, rope_theta: 1e4 }, sliding_attention }
  assert.equal(second({ rope_parameters }), expected)
  const { full_attention, ...local } = rope_parameters
  const both = { rope_parameters: { ...local, full_attention: { rope_theta: 1e4 } }, rope_scaling }
  assert.equal(second(both), expected)
  assert.equal(second({ rope_parameters: full_attention }), [Math.fround(1e-3), Math.fround(1e-2)])
})

test('granite: multipliers, 1 where it names none', () => {
  const of = (more: object) => {
    const { embeddingScale, queryScale, residualScale, logitScale } = parse({ model_type: 'granite', ...more })
    return [embeddingScale, queryScale, residualScale, logitScale]
  }
  assert.equal(of({}), [1, Math.sqrt(8), 1, 1])
  assert.equal(
    of({ embedding_multiplier: 12, attention_multiplier: 0.125, residual_multiplier: 0.22, logits_scaling: 8 }),
    [12, Math.sqrt(8) / 8, 0.22, 1 / 8],
  )
})

test('end tokens: a number or a list, generation_config first', () => {
  assert.equal(parse({ eos_token_id: 5 }).eosTokenIds, [5])
  assert.equal(parse({ eos_token_id: [5, 7, 5] }).eosTokenIds, [5, 7])
  assert.equal(parse({ eos_token_id: 5 }, { eos_token_id: [8, 9] }).eosTokenIds, [8, 9])
  assert.equal(parse({ eos_token_id: 5, bos_token_id: 1 }, { bos_token_id: 2 }).bosTokenId, 2)
  assert.equal(parse({ eos_token_id: null }).eosTokenIds, [])
})

const bad: [what: string, more: object, code: string, message: RegExp][] = [
  ['no model_type', { model_type: undefined }, 'E_MODEL_FORMAT', /model_type/],
  [
    'gemma',
    { model_type: 'gemma2' },
    'E_UNSUPPORTED_ARCH',
    /gemma2.*llama, ministral, ministral3, mistral, phi3, qwen2, qwen3/,
  ],
  ['no hidden_size', { hidden_size: undefined }, 'E_MODEL_FORMAT', /hidden_size/],
  ['hidden_size of text', { hidden_size: '32' }, 'E_MODEL_FORMAT', /hidden_size/],
  ['hidden_size 0', { hidden_size: 0 }, 'E_MODEL_FORMAT', /hidden_size/],
  ['hidden_size -32', { hidden_size: -32 }, 'E_MODEL_FORMAT', /hidden_size/],
  ['hidden_size 32.5', { hidden_size: 32.5 }, 'E_MODEL_FORMAT', /hidden_size/],
  ['hidden_size 2^40', { hidden_size: 2 ** 40 }, 'E_MODEL_FORMAT', /hidden_size/],
  ['a million layers', { num_hidden_layers: 1e6 }, 'E_MODEL_FORMAT', /num_hidden_layers/],
  ['vocab_size 2^31', { vocab_size: 2 ** 31 }, 'E_MODEL_FORMAT', /vocab_size/],
  ['heads that do not divide', { num_attention_heads: 5 }, 'E_MODEL_FORMAT', /key-value/],
  ['kv heads that do not divide', { num_key_value_heads: 3 }, 'E_MODEL_FORMAT', /key-value/],
  ['more kv heads than heads', { num_key_value_heads: 8 }, 'E_MODEL_FORMAT', /key-value/],
  ['hidden no multiple', { hidden_size: 34 }, 'E_MODEL_FORMAT', /multiple/],
  ['an odd head', { head_dim: 7 }, 'E_MODEL_FORMAT', /odd/],
  ['too wide heads', { num_attention_heads: 4096, head_dim: 1024 }, 'E_MODEL_FORMAT', /many/],
  ['eps 0', { rms_norm_eps: 0 }, 'E_MODEL_FORMAT', /rms_norm_eps/],
  ['gelu', { hidden_act: 'gelu' }, 'E_UNSUPPORTED_ARCH', /gelu.*silu/],
  [
    'soft caps of logits',
    { ...gemma, final_logit_softcapping: 30 },
    'E_UNSUPPORTED_ARCH',
    /final_logit_softcapping 30/,
  ],
  [
    'soft caps of scores',
    { ...gemma, attn_logit_softcapping: 50 },
    'E_UNSUPPORTED_ARCH',
    /attn_logit_softcapping 50/,
  ],
  [
    'gemma that sees ahead',
    { ...gemma, use_bidirectional_attention: true },
    'E_UNSUPPORTED_ARCH',
    /bidirectional/,
  ],
  [
    'a multiplier of 0',
    { model_type: 'granite', residual_multiplier: 0 },
    'E_MODEL_FORMAT',
    /residual_multiplier/,
  ],
  ['too few rope layers', { model_type: 'smollm3', no_rope_layers: [1] }, 'E_MODEL_FORMAT', /no_rope_layers/],
  [
    'rope layers of 2',
    { model_type: 'smollm3', no_rope_layers: [1, 2, 1] },
    'E_MODEL_FORMAT',
    /no_rope_layers/,
  ],
  [
    'rope of a kind that is no object',
    { ...gemma, rope_parameters: { full_attention: 1 } },
    'E_MODEL_FORMAT',
    /full_attention/,
  ],
  ['a negative end token', { eos_token_id: -1 }, 'E_MODEL_FORMAT', /eos_token_id/],
  ['rope_theta 0', { rope_theta: 0 }, 'E_MODEL_FORMAT', /rope_theta/],
  ['another scaling', { rope_scaling: { type: 'ntk', factor: 2 } }, 'E_UNSUPPORTED_ARCH', /ntk.*dynamic.*yarn/],
  ['longrope without factors', { rope_scaling: { rope_type: 'longrope' } }, 'E_MODEL_FORMAT', /short_factor/],
  [
    'longrope without long factors',
    { rope_scaling: { rope_type: 'longrope', short_factor: [1, 1, 1, 1] } },
    'E_MODEL_FORMAT',
    /long_factor/,
  ],
  [
    'longrope of too many factors',
    { rope_scaling: { rope_type: 'longrope', short_factor: [1, 1, 1, 1], long_factor: [1, 1, 1, 1, 1] } },
    'E_MODEL_FORMAT',
    /5 rope factors in long_factor for 4/,
  ],
  [
    'a longrope factor of 0',
    { rope_scaling: { rope_type: 'longrope', short_factor: [1, 1, 1, 0], long_factor: [1, 1, 1, 1] } },
    'E_MODEL_FORMAT',
    /short_factor/,
  ],
  ['half a trained position', { original_max_position_embeddings: 0.5 }, 'E_MODEL_FORMAT', /original_max/],
  ['su outside phi3', { rope_scaling: { type: 'su', factor: 2 } }, 'E_UNSUPPORTED_ARCH', /su/],
  ['linear without factor', { rope_scaling: { type: 'linear' } }, 'E_MODEL_FORMAT', /factor/],
  ['llama3 without bounds', { rope_scaling: { type: 'llama3', factor: 8 } }, 'E_MODEL_FORMAT', /low_freq/],
  [
    'llama3 with equal bounds',
    { rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 } },
    'E_MODEL_FORMAT',
    /low_freq/,
  ],
  ['a negative factor', { rope_scaling: { type: 'linear', factor: -1 } }, 'E_MODEL_FORMAT', /factor/],
  ['scaling that is a list', { rope_scaling: [] }, 'E_MODEL_FORMAT', /Expected Object/],
  ['partly rotated heads', { partial_rotary_factor: 0.5 }, 'E_UNSUPPORTED_ARCH', /partial/],
  [
    'heads rotated not at all',
    { model_type: 'phi3', partial_rotary_factor: 0.1 },
    'E_MODEL_FORMAT',
    /rotates 0/,
  ],
  [
    'heads rotated and more',
    { model_type: 'phi3', partial_rotary_factor: 1.5 },
    'E_MODEL_FORMAT',
    /rotates 12/,
  ],
  [
    'rope per kind of layer',
    { rope_parameters: { full_attention: { rope_theta: 1e4 } } },
    'E_UNSUPPORTED_ARCH',
    /full_attention/,
  ],
  ['rope factors of another length', { flrc_rope_factors: [1] }, 'E_MODEL_FORMAT', /factors/],
  [
    'a strange kind of layer',
    { model_type: 'qwen3', layer_types: ['full_attention', 'chunked_attention', 'full_attention'] },
    'E_UNSUPPORTED_ARCH',
    /chunked/,
  ],
  ['clipped queries', { model_type: 'iquestcoder', clip_qkv: 8 }, 'E_UNSUPPORTED_ARCH', /clip_qkv/],
  [
    'windows that iquestcoder lacks',
    { model_type: 'iquestcoder', use_sliding_window: true },
    'E_UNSUPPORTED_ARCH',
    /use_sliding_window/,
  ],
  ['biases on q, k and v alone', { model_type: 'internlm3', qkv_bias: true }, 'E_UNSUPPORTED_ARCH', /qkv_bias/],
  [
    'biases on all but q, k and v',
    { model_type: 'internlm3', qkv_bias: false, bias: true },
    'E_UNSUPPORTED_ARCH',
    /qkv_bias false beside bias true/,
  ],
  ['too few kinds of layer', { model_type: 'qwen3', layer_types: [] }, 'E_MODEL_FORMAT', /layer_types/],
]

for (const [what, more, code, message] of bad) {
  test(`refuses ${what}`, () => throwsFlrcError(() => parse(more), { code, file, message }))
}

test('refuses a bad generation config', () =>
  throwsFlrcError(() => parse({}, { eos_token_id: 'end' }), { code: 'E_MODEL_FORMAT', message: /eos/ }))

const variants = readdirSync(fixture(), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name)

test('there are fixture models of every architecture', () => {
  for (const name of ['llama3-scaled', 'llama-yarn', 'llama-linear', 'phi3-longrope', ...architectures]) {
    assert.ok(variants.includes(name.replace('_text', '')), name)
  }
})

for (const variant of variants) {
  test(`${variant}: the tensors transformers saved are those of its config, in its shapes`, async () => {
    const config = modelConfig(
      JSON.parse(readFileSync(fixture(variant, 'config.json'), 'utf8')),
      undefined,
      `${variant}/config.json`,
    )
    const { tensors } = await readSafetensors(fixture(variant, 'model.safetensors'))
    const expected = new Map<string, number[]>([
      ['model.embed_tokens.weight', [config.vocabSize, config.hiddenSize]],
      ['model.norm.weight', [config.hiddenSize]],
      ...(config.tieEmbeddings
        ? []
        : [['lm_head.weight', [config.vocabSize, config.hiddenSize]] as [string, number[]]]),
    ])
    for (let layer = 0; layer < config.layers; layer++) {
      const prefix = `model.layers.${layer}`
      const outputs = ['pre_feedforward_layernorm', 'post_feedforward_layernorm']
      for (const norm of [
        'input_layernorm',
        'post_attention_layernorm',
        ...(config.outputNorms ? outputs : []),
      ]) {
        expected.set(`${prefix}.${norm}.weight`, [config.hiddenSize])
      }
      if (!config.qkNorm) continue
      expected.set(`${prefix}.self_attn.q_norm.weight`, [config.headDim])
      expected.set(`${prefix}.self_attn.k_norm.weight`, [config.headDim])
    }
    for (const { name, kind, out, in: width } of projectionNames(config)) {
      expected.set(`${name}.weight`, [out, width])
      const { qkvBias, outputBias, mlpBias } = config
      const biased = {
        q: qkvBias,
        k: qkvBias,
        v: qkvBias,
        o: outputBias,
        gate: mlpBias,
        up: mlpBias,
        down: mlpBias,
      }
      if (biased[kind]) expected.set(`${name}.bias`, [out])
    }
    for (const { name, parts } of fusedProjections(config)) {
      const rows = parts.reduce((sum, part) => sum + part.out, 0)
      expected.set(`${name}.weight`, [rows, config.hiddenSize])
      for (const part of parts) expected.delete(`${part.name}.weight`)
    }
    const found = [...tensors.values()].map(({ name, shape }) => [name, shape] as const)
    assert.equal(Object.fromEntries([...found].sort()), Object.fromEntries([...expected].sort()))
    assert.ok([...expected.keys()].every((name) => isModelTensor(name, config)))
  })
}

test('projections come layer by layer: q, k, v, o, gate, up, down', () => {
  const projections = projectionNames(parse())
  assert.is(projections.length, 21)
  assert.equal(
    projections.slice(7, 14).map(({ name, kind, layer, out, in: width }) => [name, kind, layer, out, width]),
    [
      ['model.layers.1.self_attn.q_proj', 'q', 1, 32, 32],
      ['model.layers.1.self_attn.k_proj', 'k', 1, 16, 32],
      ['model.layers.1.self_attn.v_proj', 'v', 1, 16, 32],
      ['model.layers.1.self_attn.o_proj', 'o', 1, 32, 32],
      ['model.layers.1.mlp.gate_proj', 'gate', 1, 48, 32],
      ['model.layers.1.mlp.up_proj', 'up', 1, 48, 32],
      ['model.layers.1.mlp.down_proj', 'down', 1, 32, 48],
    ],
  )
})

test('other tensors of a model are none of ours', () => {
  const config = parse({ tie_word_embeddings: true })
  for (const name of [
    'lm_head.weight',
    'model.layers.3.self_attn.q_proj.weight',
    'model.layers.0.self_attn.rotary_emb.inv_freq',
    'model.layers.0.mlp.experts.0.weight',
    'vision_model.embed_tokens.weight',
  ]) {
    assert.is(isModelTensor(name, config), false, name)
  }
  assert.ok(isModelTensor('model.layers.2.mlp.up_proj.P.0', config))
})

test.run()
