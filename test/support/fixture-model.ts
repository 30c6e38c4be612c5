import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import type { Calibration } from '#lib/calibrate.js'
import { readBytes } from '#lib/format/files.js'
import { readSafetensors } from '#lib/format/safetensors.js'
import type { LoadedModel } from '#lib/model.js'
import { fixture, repository } from './paths.js'

/** A fixture's model with models/tiny's tokenizer, which is larger than its vocabulary: for token ids alone. */
export function modelDirectory(directory: string, variant: string): string {
  mkdirSync(directory, { recursive: true })
  for (const name of ['config.json', 'model.safetensors']) {
    copyFileSync(fixture(variant, name), join(directory, name))
  }
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(repository('models', 'tiny', name), join(directory, name))
  }
  return directory
}

export interface ExpectedArray {
  shape: number[]
  values: Float64Array | Float32Array | Int32Array
}

/** What PyTorch says of a variant: an array of expected.safetensors. */
export async function expectedArrays(variant: string): Promise<(name: string) => Promise<ExpectedArray>> {
  const { tensors } = await readSafetensors(fixture(variant, 'expected.safetensors'))
  return async (name) => {
    const found = tensors.get(name)
    if (!found) throw new Error(`${variant} has no ${name}`)
    const { file, offset, byteLength, dtype, shape } = found
    const { buffer } = Uint8Array.from(await readBytes(file, offset, byteLength))
    const values =
      dtype === 'F64'
        ? new Float64Array(buffer)
        : dtype === 'F32'
          ? new Float32Array(buffer)
          : new Int32Array(buffer)
    return { shape, values }
  }
}

/** The fixture's token sequences, all of one length. */
export async function windowsOf(variant: string): Promise<Int32Array[]> {
  const { shape, values } = await (await expectedArrays(variant))('tokens')
  const [sequences = 0, length = 0] = shape
  return Array.from({ length: sequences }, (_, s) =>
    Int32Array.from(values.subarray(s * length, (s + 1) * length)),
  )
}

/** That the model says what PyTorch does after the first tokens of some windows: [window, how many] each. */
export async function assertLogits(
  model: LoadedModel,
  variant: string,
  places: readonly (readonly [window: number, tokens: number])[],
): Promise<void> {
  const { values: logits } = await (await expectedArrays(variant))('logits')
  const windows = await windowsOf(variant)
  const vocabulary = model.config.vocabSize
  const length = windows[0]?.length ?? 0
  for (const [s, at] of places) {
    const begin = (s * length + at - 1) * vocabulary
    const wanted = normalised(logits.subarray(begin, begin + vocabulary))
    const got = await distribution(model, windows[s]?.subarray(0, at) ?? new Int32Array())
    got.forEach((value, token) => {
      // Logits of unit scale, and some tens of terms each.
      const off = Math.abs(value - (wanted[token] ?? Number.NaN))
      assert.ok(off < 2e-4, `sequence ${s}, position ${at}, token ${token}: off by ${off}`)
    })
  }
}

/** That a calibration on the fixture's windows has PyTorch's three scores of every projection. */
export async function assertScores(calibration: Calibration, variant: string): Promise<void> {
  const expected = await expectedArrays(variant)
  for (const { name } of calibration.model.projections) {
    const { fisher = 0, gradient = 0, taylor = 0 } = calibration.scores[name] ?? {}
    const { values: scores } = await expected(`${name}.scores`)
    for (const [i, score] of [fisher, gradient, taylor].entries()) {
      const wanted = scores[i] ?? Number.NaN
      assert.ok(Math.abs(score - wanted) <= 1e-3 * wanted, `${name}, score ${i}: ${score} for ${wanted}`)
    }
  }
}

/** Log-probabilities of every token after these, by the model's own `logprobs`. [vocabulary] */
export async function distribution(model: LoadedModel, tokens: Int32Array): Promise<Float64Array> {
  const session = model.createSession()
  await session.prefill(tokens, 0)
  const all = new Float64Array(model.config.vocabSize)
  for (let token = 0; token < all.length; token++) {
    const fork = await session.fork()
    const [value = Number.NaN] = await fork.logprobs(Int32Array.of(token), 0)
    all[token] = value
    fork.release()
  }
  session.release()
  return all
}

/** log softmax */
function normalised(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits)
  const largest = Math.max(...values)
  const sum = values.reduce((total, value) => total + Math.exp(value - largest), 0)
  return values.map((value) => value - largest - Math.log(sum))
}
