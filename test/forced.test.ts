import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type ForcedRun, runForced } from '#lib/evaluate/forced.js'
import { complete, compress, Model, type Schedule, type ScheduleContext } from '#lib/index.js'
import { tinyModel } from './support/child.js'

const model = await Model.load(tinyModel, { dtype: 'f32' })
const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
const small = await compress(model, {
  ...{ keep: 0.8, levels: [0.8, 0.5], calibration, samples: 2, seqLen: 64, method: 'uniform' },
})
const tokens = Array.from(small.tokenizer.encode('Once upon a time there was a king who'))
const task = { maxTokens: 6, signal: undefined }

/** Budgets by step, of a schedule that tells what it hears. */
const hearing =
  (heard: ScheduleContext[], budgetAt: (step: number) => number): Schedule =>
  (step, context) => {
    heard.push(context)
    return budgetAt(step)
  }

test('along its own tokens a model hears what it hears when it writes them', async () => {
  const [writing, reading]: [ScheduleContext[], ScheduleContext[]] = [[], []]
  await complete(small.generate(tokens, { maxTokens: 6, schedule: hearing(writing, () => 0.8) }))
  await runForced(small, small, [{ id: '1', tokens }], [hearing(reading, () => 0.8)], task)
  assert.is(reading.length, 5)
  assert.equal(reading, writing)
})

test('along another’s tokens it tells its own entropies, at the levels that it was at', async () => {
  const heard: ScheduleContext[] = []
  const alternating = hearing(heard, (step) => (step % 2 === 0 ? 0.8 : 0.5))
  const [runs = []] = await runForced(small, model, [{ id: '1', tokens }], [alternating], task)
  const { entropy, levels } = runs[0] as ForcedRun
  assert.equal(levels, [0, 1, 0, 1, 0, 1])
  assert.equal(
    heard.map((context) => [context.level, context.entropy]),
    levels.slice(0, -1).map((level, step) => [level, entropy[step]]),
  )
  const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }
  const { tokenIds } = await complete(model.generate(tokens, { maxTokens: 6 }))
  const session = small.createSession()
  await session.prefill(Int32Array.from(tokens), 0)
  const says = [session.sample(greedy).entropy]
  for (const [at, token] of tokenIds.slice(0, 5).entries()) {
    says.push((await session.decode(token, levels[at + 1] ?? 0, greedy)).entropy)
  }
  session.release()
  assert.equal(entropy, says)
})

test.after(() => {
  small.dispose()
  model.dispose()
})

test.run()
