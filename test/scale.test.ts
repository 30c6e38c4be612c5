import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { architectures } from '#lib/format/config.js'
import { compress, evaluate, Model } from '#lib/index.js'
import {
  type Job,
  pivotedRank,
  ratesOf,
  secondsOf,
  spaceOf,
  stages,
  workOf,
} from '../bench/scale/extrapolate.js'
import { generateModel, randomWindows } from '../bench/scale/generate.js'
import { insertTables, type ScaleRun, scaleTables } from '../bench/scale/page.js'
import { blockParameters, type ModelShape, parameters, shapes } from '../bench/scale/shapes.js'
import { spreadProjections } from '../bench/search/costs.js'
import { inTemporaryDirectory } from './support/checkpoint.js'
import { runCli, tinyModel } from './support/child.js'

const least: ModelShape = {
  architecture: 'llama',
  layers: 2,
  hidden: 64,
  intermediate: 96,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  vocab: 1536,
  tied: true,
  context: 128,
}

for (const architecture of architectures) {
  test(`a generated ${architecture} is compressed, measured and generates`, () =>
    inTemporaryDirectory(async (directory) => {
      // Heads wider than the hidden state (a tall q, a wide o), and an untied head, where models have them.
      const shape =
        architecture === 'qwen3'
          ? { ...least, architecture, headDim: 32, tied: false }
          : { ...least, architecture }
      await generateModel(directory, shape, { shardBytes: 200_000 })
      assert.ok((await readdir(directory)).includes('model.safetensors.index.json'))
      const model = await Model.load(directory)
      assert.is(model.denseParameters, blockParameters(shape))
      const small = await compress(model, { keep: 0.7, calibration: randomWindows(shape.vocab, 4, 32, 1) })
      const kept = (small.report?.storedParameters ?? 0) / model.denseParameters
      assert.ok(kept <= 0.7 && kept > 0.68, `keeps ${kept}`)
      const text = await readFile(join(tinyModel, 'heldout.txt'), 'utf8')
      const { perplexity } = await evaluate.perplexity(small, text, { seqLen: 64, windows: 2 })
      // Random weights know nothing: near the vocabulary's size, far below nonsense.
      assert.ok(perplexity > 100 && perplexity < 1e5, `perplexity ${perplexity}`)
      let tokens = 0
      for await (const piece of small.generate([3, 4, 5], { maxTokens: 4, temperature: 0 })) {
        assert.ok(piece.tokenId >= 0 && piece.tokenId < shape.vocab)
        tokens++
      }
      assert.ok(tokens > 0)
      small.dispose()
      model.dispose()
    }))
}

test('generated weights follow their seed and fan-in', () =>
  inTemporaryDirectory(async (directory) => {
    const bytes = async (name: string, seed: number) => {
      await generateModel(join(directory, name), least, { seed })
      return readFile(join(directory, name, 'model.safetensors'))
    }
    const [first, again, other] = [await bytes('a', 1), await bytes('b', 1), await bytes('c', 2)]
    assert.ok(first.equals(again))
    assert.not.ok(first.equals(other))
    // The embedding comes first: 1536 x 64 values of deviation 1/8.
    const start = 8 + Number(first.readBigUInt64LE(0))
    const bits = Uint32Array.from({ length: 1536 * 64 }, (_, i) => first.readUInt16LE(start + 2 * i) << 16)
    const values = new Float32Array(bits.buffer)
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length
    const square = values.reduce((sum, value) => sum + value * value, 0) / values.length
    assert.ok(Math.abs(mean) < 0.002, `mean ${mean}`)
    assert.ok(Math.abs(Math.sqrt(square) - 0.125) < 0.002, `deviation ${Math.sqrt(square)}`)
  }))

test('less memory changes what is done at once, not the result, and is told', () =>
  inTemporaryDirectory(async (directory) => {
    const model = await Model.load(tinyModel, { threads: 2 })
    const task = { keep: 0.8, calibration: randomWindows(1536, 4, 48, 1) }
    const roomy = await compress(model, { ...task, memory: 1e9 })
    const tight = await compress(model, { ...task, memory: 1 })
    assert.equal(roomy.report?.atOnce, { sequences: 2, projections: 2, oneInput: false })
    assert.equal(tight.report?.atOnce, { sequences: 1, projections: 1, oneInput: true })
    assert.equal(tight.plan?.curves, roomy.plan?.curves)
    assert.equal(tight.report?.ranks, roomy.report?.ranks)
    for (const one of [roomy, tight, model]) one.dispose()

    const flags = ['--keep', '.8', '--samples', '2', '--seq-len', '48', '--memory', '1MB']
    const files = ['--calibration', join(tinyModel, 'calibration.txt'), '-o', join(directory, 'out')]
    const ended = await runCli(['compress', tinyModel, ...flags, ...files])
    assert.is(ended.code, 0, ended.stderr)
    assert.match(ended.stderr, /the memory allowed 1 of a layer's projections .* one input at a time/)
  }))

const job: Job = { shape: shapes['llama-3-8b'] as ModelShape, tokens: 32_768, seqLen: 512, keep: 0.8 }
const known = { passes: 100, moments: 10, factorize: 50, curves: 40, cut: 20 }

test('shapes have the published number of parameters', () => {
  assert.is(parameters(shapes['llama-3.2-1b'] as ModelShape), 1_235_746_816)
  assert.is(parameters(shapes['llama-3-8b'] as ModelShape), 8_029_995_008)
  assert.is(parameters(shapes['llama-3-70b'] as ModelShape), 70_552_387_584)
})

test('rates foretell the run that they come from', () => {
  const seconds = secondsOf(job, ratesOf(job, known, 2), 2)
  for (const stage of stages) assert.ok(Math.abs(seconds[stage] - known[stage]) < 1e-9, stage)
})

test('passes, moments and curves grow with the tokens, factors and cuts do not', () => {
  const once = workOf(job)
  const twice = workOf({ ...job, tokens: 2 * job.tokens })
  for (const stage of ['passes', 'moments', 'curves'] as const) assert.is(twice[stage], 2 * once[stage])
  for (const stage of ['factorize', 'cut'] as const) assert.is(twice[stage], once[stage])
  // 8 operations a block parameter and token, 4 a parameter of the head, and attention.
  const parts = 8 * blockParameters(job.shape) + 4 * 128_256 * 4096 + 32 * 8 * 4096 * 512
  assert.is(once.passes, job.tokens * parts)
})

test('more cores help until windows or the projections of a layer run out', () => {
  const rates = ratesOf(job, known, 2)
  const on = (cores: number) => secondsOf(job, rates, cores)
  assert.ok(Math.abs(on(64).passes - known.passes / 32) < 1e-9)
  assert.is(on(128).passes, on(64).passes)
  // down, gate and up take most of a layer and each one core, so a layer takes at least as long as one of them.
  assert.ok(on(64).factorize > known.factorize / 8)
  assert.is(on(64).factorize, on(7).factorize)
  assert.ok(on(64).cut < on(8).cut)
})

test('the pivoted rank is the one that costs the share kept', () => {
  for (const [rows, columns] of [
    [4096, 4096],
    [14_336, 4096],
    [1024, 4096],
  ] as const) {
    const rank = pivotedRank({ rows, columns }, 0.8)
    assert.ok(Math.abs(rank * (rows + columns - rank) - 0.8 * rows * columns) < 1)
    assert.ok(rank < Math.min(rows, columns))
  }
})

test('memory beside the weights does not grow with depth, what is stored does', () => {
  const at = (layers: number) => spaceOf({ ...job, shape: { ...job.shape, layers } }, 64)
  assert.is(at(80).least, at(2).least)
  assert.is(at(80).most, at(2).most)
  assert.is(at(80).stored.activations, at(2).stored.activations)
  assert.is(at(80).stored.factors, 40 * at(2).stored.factors)
  assert.is(spaceOf(job, 2).weights, 2 * parameters(job.shape))
  assert.ok(spaceOf(job, 64).most > spaceOf(job, 2).most)
})

test('projections to time are spread over kinds and layers', () => {
  assert.equal(spreadProjections(3, 21), [...Array(21).keys()])
  assert.equal(spreadProjections(2, 100), [...Array(14).keys()])
  const chosen = spreadProjections(30, 21)
  assert.is(new Set(chosen).size, 21)
  for (let kind = 0; kind < 7; kind++) {
    assert.equal(
      chosen.filter((index) => index % 7 === kind).map((index) => Math.floor(index / 7)),
      [5, 15, 25],
    )
  }
})

test('tables go between the marks of a page, and nothing else changes', () => {
  const page = 'before\n<!-- begin: written by npm run bench -- scale -->\nold\n<!-- end -->\nafter\n'
  const taken = { wall: 1, cpu: 2, peakBytes: 1e9 }
  const run: ScaleRun = {
    ...{
      name: 'small',
      shape: shapes.small as ModelShape,
      samples: 8,
      seqLen: 512,
      memory: 1e9,
      series: false,
    },
    result: {
      ...{ threads: 2, tokens: 4096, keep: 0.8, weightBytes: 1e7, baseBytes: 5e7 },
      stages: { load: taken, calibrate: taken, cut: taken, save: taken },
      parts: { forward: 1, backward: 2, moments: 3, factorize: 4, curves: 5 },
      atOnce: { sequences: 2, projections: 2, oneInput: false },
    },
  }
  const machine = { cores: 2, memoryBytes: 8e9, node: '20', blas: 'OpenBLAS' }
  const tables = scaleTables({ machine, runs: [run] })
  assert.match(tables, /\| small \| 4 \| .* \| 4096 \| 1\.0 \| 3\.0 \| 3\.0 \| 4\.0 \| 5\.0 \| 1\.0 \|/)
  assert.match(tables, /\| llama-3-70b \| 64 \|/)
  const written = insertTables(page, tables)
  assert.ok(written.startsWith('before\n') && written.endsWith('<!-- end -->\nafter\n'))
  assert.not.match(written, /old/)
  assert.throws(() => insertTables('no marks', tables), /has no/)
})

test.run()
