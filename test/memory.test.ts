import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { compress } from '#lib/compress.js'
import { availableMemory, checkMemory, gigabytes, memoryNeeds, weightBytes } from '#lib/memory.js'
import { Model } from '#lib/public-model.js'
import { runCli, tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const GB = 1e9
const dense = await Model.load(tinyModel)
const question = {
  whitening: 'two-sided' as const,
  inputMoments: false,
  samples: 64,
  seqLen: 512,
  threads: 2,
  weights: GB,
}

test('needs grow with windows, threads and whitening, and the least with none of the first two', () => {
  const needs = memoryNeeds(dense.config, question)
  assert.ok(0 < needs.least && needs.least < needs.everything)
  assert.is(needs.weights, GB)
  const more = memoryNeeds(dense.config, { ...question, samples: 128, threads: 8 })
  assert.is(more.least, needs.least)
  assert.ok(more.everything > needs.everything)
  assert.ok(memoryNeeds(dense.config, { ...question, whitening: 'none' }).everything < needs.everything)
  assert.ok(availableMemory() > 0)
})

test('weights are counted as they will be held', () => {
  const held = dense.bytes
  const estimate = weightBytes(dense.source, 'bf16')
  assert.ok(Math.abs(estimate / held - 1) < 0.15, `${estimate} for ${held}`)
  assert.is(weightBytes(dense.source, 'f32'), 2 * estimate)
})

test('what fits passes; what does not is refused with a remedy that would pass', async () => {
  const needs = { weights: 2 * GB, least: GB, everything: 8 * GB, available: 4 * GB }
  checkMemory(needs)
  checkMemory(needs, 2 * GB)
  checkMemory({ ...needs, everything: 1.5 * GB }, 100 * GB)
  await throwsFlrcError(() => checkMemory(needs, 3 * GB), {
    code: 'E_OUT_OF_MEMORY',
    message:
      /2\.00 GB for weights and 3\.00 GB to calibrate, but only 4\.00 GB are free; .*--memory.* 2\.00 GB/,
  })
  await throwsFlrcError(() => checkMemory({ ...needs, available: 2.5 * GB }), {
    code: 'E_OUT_OF_MEMORY',
    message: /smaller model/,
  })
  assert.is(gigabytes(1.999 * GB), '1.99 GB')
})

test('compress says what it will take, and refuses before it writes or calibrates', async () => {
  const cwd = temporaryDirectory()
  const calibration = ['--calibration', path.join(tinyModel, 'calibration.txt')]
  const small = ['--samples', '2', '--seq-len', '64', '--method', 'uniform']
  const args = ['compress', tinyModel, '-o', 'out', '--keep', '.5', ...calibration]
  const done = await runCli([...args, ...small], { cwd })
  assert.is(done.code, 0, done.stderr)
  assert.match(done.stderr, /^memory: [\d.]+ [kMG]B for weights, .* [\d.]+ [kMG]B are free$/m)
  // A run without end needs more than there is; so do windows of which a machine holds none.
  const all = ['--samples', '1000000000', '--memory', '1000TB']
  const refused = await runCli([...args, ...all, '--overwrite'], { cwd })
  assert.is(refused.code, 1)
  assert.match(refused.stderr, /flrc: E_OUT_OF_MEMORY: .*--memory/)
  const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
  await throwsFlrcError(
    () => compress(dense, { keep: 0.5, calibration: [text], samples: 1e9, memory: Number.MAX_SAFE_INTEGER }),
    { code: 'E_OUT_OF_MEMORY', within: 2000 },
  )
  // With a recovery, four f32 for each block parameter beside the model.
  const held = gigabytes(dense.bytes + 16 * dense.denseParameters).replace('.', '\\.')
  await throwsFlrcError(
    () => compress(dense, { keep: 0.5, calibration: [text], samples: 1e9, memory: 1e15, recover: 1 }),
    { code: 'E_OUT_OF_MEMORY', message: new RegExp(`takes ${held} for weights`) },
  )
})

test.after(() => dense.dispose())

test.run()
