import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Calibration, type CompressOptions, calibrate, compress, evaluate, Model } from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const folder = temporaryDirectory()
const looks = { calibration: [text], samples: 48, seqLen: 128 }

const model = await Model.load(tinyModel, { threads: 2 })
const calibration = await calibrate(model, { ...looks, inputMoments: true })
const withoutMoments = await calibrate(model, looks)

async function perplexities(of: Model): Promise<number[]> {
  const all: number[] = []
  for (const level of of.levels.keys()) {
    all.push((await evaluate.perplexity(of, heldout, { seqLen: 128, windows: 24, level })).perplexity)
  }
  return all
}

/** At every level: rounded against the moments, rounded to the nearest at the same ranks, and not rounded. */
async function compared(
  options: Pick<CompressOptions, 'levels' | 'storage'> & { keep: number },
  dtype: 'int8' | 'int4',
) {
  const rounded = await compress(model, { ...options, dtype, calibration })
  const wide = await compress(model, { ...options, dtype: 'bf16', calibration })
  const levels = rounded.levels.map(({ ranks }) =>
    Int32Array.from(Object.values(ranks), (rank) => (rank === 'dense' ? -1 : rank)),
  )
  const { storage = 'pivoted', keep } = options
  const nearest = new Model(await withoutMoments.factorize({ levels, storage, dtype }, keep, {}))
  try {
    assert.equal(rounded.storedBytes, nearest.storedBytes)
    return {
      ours: await perplexities(rounded),
      plain: await perplexities(nearest),
      exact: await perplexities(wide),
    }
  } finally {
    for (const made of [rounded, wide, nearest]) made.dispose()
  }
}

test('int4 blocks rounded against the moments lose a fraction of what plain rounding loses', async () => {
  for (const options of [{ keep: 0.8 }, { keep: 0.8, levels: [0.8, 0.5] }]) {
    const { ours, plain, exact } = await compared(options, 'int4')
    for (const [level, wide] of exact.entries()) {
      const [mine = 0, theirs = 0] = [ours[level], plain[level]]
      const share = Math.log(mine / wide) / Math.log(theirs / wide)
      assert.ok(share < 0.5, `level ${level}: ${wide} unrounded, ${mine} ours, ${theirs} plain`)
    }
  }
})

test('plain factors and int8 are no worse for it', async () => {
  for (const [options, dtype] of [
    [{ keep: 0.7, levels: [0.7, 0.5], storage: 'plain' }, 'int4'],
    [{ keep: 0.8 }, 'int8'],
    [{ keep: 1 }, 'int4'],
  ] as const) {
    const { ours, plain } = await compared(options, dtype)
    for (const [level, theirs] of plain.entries()) {
      assert.ok(
        (ours[level] ?? 0) < theirs * 1.01,
        `${dtype}, keep ${options.keep}: ${ours} ours, ${plain} plain`,
      )
    }
  }
})

test('compress keeps the moments it needs, a calibration without them is refused', async () => {
  const [given, own] = [
    await compress(model, { keep: 0.8, dtype: 'int4', calibration }),
    await compress(model, { ...looks, keep: 0.8, dtype: 'int4' }),
  ]
  assert.equal(await perplexities(given), await perplexities(own))
  for (const dtype of ['int8', 'int4'] as const) {
    const refused = () => compress(model, { keep: 0.8, dtype, calibration: withoutMoments })
    await throwsFlrcError(refused, { code: 'E_USAGE', message: /inputMoments/ })
  }
  const trained = { keep: 0.8, dtype: 'int8', recover: 1, calibration: withoutMoments } as const
  await throwsFlrcError(() => compress(model, trained), { code: 'E_USAGE', message: /inputMoments/ })
  ;(await compress(model, { keep: 0.8, dtype: 'bf16', calibration: withoutMoments })).dispose()
})

test('a recovery that finds nothing to train leaves the rounding to the moments', async () => {
  const few = { ...looks, samples: 4, dtype: 'int8' } as const
  for (const options of [{ keep: 1 }, { keep: 0.8, dropChannels: 0.5 }]) {
    const [recovered, cut] = [
      await compress(model, { ...few, ...options, recover: 1 }),
      await compress(model, { ...few, ...options }),
    ]
    assert.is(recovered.report?.recovery, undefined)
    assert.equal(await perplexities(recovered), await perplexities(cut))
    for (const made of [recovered, cut]) made.dispose()
  }
})

test('rounding gives the same bytes at any thread count and memory', async () => {
  const digest = async (look: Calibration, name: string) => {
    const made = await compress(look.model, { keep: 0.7, levels: [0.7, 0.5], dtype: 'int4', calibration: look })
    await made.save(path.join(folder, name))
    made.dispose()
    return createHash('sha256')
      .update(readFileSync(path.join(folder, name, 'model.safetensors')))
      .digest('hex')
  }
  const single = await Model.load(tinyModel, { threads: 1 })
  const tight = await calibrate(single, { ...looks, inputMoments: true, memory: 1 })
  assert.is(await digest(tight, 'tight'), await digest(calibration, 'roomy'))
})

test.run()
