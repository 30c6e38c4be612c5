import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { FlrcError } from '#lib/errors.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import { openModelSource } from '#lib/model-source.js'
import { Tokenizer } from '#lib/tokenizer.js'
import { tinyGguf } from './support/gguf-writer.js'
import { fixture, temporaryDirectory } from './support/paths.js'
import { safetensorsBytes } from './support/safetensors-writer.js'

const file = join(temporaryDirectory(), 'x.gguf')
/** Of each format; FLRC_LONG=1 looks longer. */
const fuzzMs = process.env.FLRC_LONG ? 30_000 : 600
const slowestMs = 2000
/** Changes hit a file's beginning: bytes of weights may be anything. */
const headerBytes = 4096

/** Random integers below `limit`, the same for the same seed (mulberry32). */
function randomIntegers(seed: number): (limit: number) => number {
  let state = seed
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) * 2 ** -32 * limit)
  }
}

/** Flips, overwrites or cuts; edges such as 0 and 0xff are tried more often than chance would. */
function mutate(bytes: Buffer, random: (limit: number) => number): Buffer {
  const copy = Buffer.from(bytes)
  for (let flips = 1 + random(4); flips > 0; flips--) {
    const at = random(Math.min(copy.length, headerBytes))
    switch (random(4)) {
      case 0:
        copy[at] = (copy[at] ?? 0) ^ (1 << random(8))
        break
      case 1:
        copy[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)] ?? 0
        break
      case 2:
        copy.fill([0, 0xff][random(2)] ?? 0, at, Math.min(copy.length, at + 1 + random(8)))
        break
      default:
        copy[at] = random(256)
    }
  }
  return random(4) === 0 ? copy.subarray(0, random(copy.length + 1)) : copy
}

async function fuzz(seed: number, bytes: Buffer, read: () => Promise<unknown>): Promise<void> {
  const random = randomIntegers(seed)
  const end = performance.now() + fuzzMs
  let runs = 0
  let failures = 0
  while (performance.now() < end) {
    const mutant = mutate(bytes, random)
    writeFileSync(file, mutant)
    const begin = performance.now()
    try {
      await read()
    } catch (error) {
      failures++
      if (!(error instanceof FlrcError)) {
        throw new Error(`run ${runs} of seed ${seed}: not an FlrcError; file ${mutant.toString('base64')}`, {
          cause: error,
        })
      }
      assert.is.not(error.code, 'E_INTERNAL')
    }
    const elapsed = performance.now() - begin
    assert.ok(elapsed < slowestMs, `run ${runs} of seed ${seed} took ${Math.round(elapsed)} ms`)
    runs++
  }
  console.log(`seed ${seed}: ${runs} mutants, ${failures} refused`)
  assert.ok(runs > 20 && failures > 0 && failures < runs, 'the fuzzing did something')
}

test('mutated safetensors are read or refused, never worse', async () => {
  const bytes = safetensorsBytes(
    [
      { name: 'model.norm.weight', shape: [4] },
      { name: 'a', dtype: 'BF16', shape: [3, 2] },
      { name: 'b', dtype: 'I8', shape: [0, 7] },
    ],
    { format: 'pt' },
  )
  await fuzz(1, bytes, () => readSafetensors(file))
})

test('a mutated file from Python is read or refused, never worse', async () => {
  await fuzz(2, readFileSync(fixture('qwen3', 'model.safetensors')), () => readSafetensors(file))
})

test('mutated GGUF models are opened and used or refused, never worse', async () => {
  await fuzz(3, tinyGguf(), async () => {
    const { tokenizer, config } = await openModelSource(file)
    const built = new Tokenizer(tokenizer(), { file, eosTokenIds: config.eosTokenIds })
    built.decode(built.encode('ab'))
  })
})

test('mutated Phi-3 models, fused and with longrope, are opened and used or refused, never worse', async () => {
  await fuzz(5, readFileSync(fixture('phi3-partial', 'model.gguf')), async () => {
    const { tokenizer, config } = await openModelSource(file)
    new Tokenizer(tokenizer(), { file, eosTokenIds: config.eosTokenIds }).encode('ab')
  })
})

test('mutated SentencePiece models are opened and used or refused, never worse', async () => {
  const bytes = tinyGguf({
    architecture: 'qwen3',
    metadata: [
      ['tokenizer.ggml.model', 'string', 'llama'],
      ['tokenizer.ggml.tokens', 'strings', ['<unk>', '<s>', '</s>', '<0x41>', '\u2581', 'a', '\u2581a']],
      ['tokenizer.ggml.scores', 'f32s', [0, 0, 0, 0, -1, -2, -0.5]],
      ['tokenizer.ggml.token_type', 'i32s', [2, 3, 3, 6, 1, 1, 1]],
      ['tokenizer.ggml.bos_token_id', 'u32', 1],
      ['tokenizer.ggml.eos_token_id', 'u32', 2],
      ['qwen3.rope.scaling.type', 'string', 'yarn'],
      ['qwen3.rope.scaling.factor', 'f32', 2],
      ['tokenizer.chat_template', 'string', '{{ messages }}'],
    ],
  })
  await fuzz(4, bytes, async () => {
    const { tokenizer, config } = await openModelSource(file)
    const built = new Tokenizer(tokenizer(), { file, eosTokenIds: config.eosTokenIds })
    built.decode(built.encode('a aA'))
  })
})

test.run()
