import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type CompressOptions, calibrate, compress, Model } from '#lib/index.js'
import { tinyModel } from './support/child.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const dense = await Model.load(tinyModel)
const calibration = await calibrate(dense, { calibration: [text], samples: 4, seqLen: 64 })

/** What is cut, and what the plan says of it. */
async function made(options: CompressOptions) {
  const small = await compress(dense, { calibration, ...options })
  small.dispose()
  return { ranks: small.levels.map(({ ranks }) => ranks), plan: small.plan?.options }
}

test('weights of levels decide between them', async () => {
  const weighted = (levelWeights: number[]) => made({ keep: 0.8, levels: [0.8, 0.5], levelWeights })
  assert.not.equal((await weighted([9, 1])).ranks, (await weighted([1, 9])).ranks)
})

test('how ranks follow scores, their floor, what they are multiples of, and dense projections are as told', async () => {
  const usual = { keep: 0.5, method: 'fisher' as const }
  const { ranks } = await made(usual)
  for (const other of [{ power: 0.3 }, { rankFloor: 0.3 }, { rankMultiple: 16 }, { dense: false }]) {
    assert.not.equal((await made({ ...usual, ...other })).ranks, ranks, JSON.stringify(other))
  }
})

test('the plan tells either side’s shrinkage', async () => {
  const { plan } = await made({ keep: 0.8 })
  assert.equal([plan?.inputShrinkage, plan?.gradientShrinkage], [0.1, 0.5])
})

test.after(() => {
  calibration.dispose()
  dense.dispose()
})

test.run()
