import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type Completion,
  calibrate,
  complete,
  compress,
  constant,
  full,
  type GenerateOptions,
  Model,
} from '#lib/index.js'
import { seeded } from './support/allocation.js'
import { tinyModel } from './support/child.js'
import { rejects } from './support/flrc-error.js'

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-test-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const dense = await Model.load(tinyModel)
const calibration = await calibrate(dense, { calibration: [text], samples: 8, seqLen: 128 })
const small = await compress(dense, { keep: 0.9, levels: [0.9, 0.7, 0.4], calibration })
const prompt = 'Once upon a time there was a king who'

const run = (options: GenerateOptions, from: string | Int32Array | number[] = prompt, model = small) =>
  complete(model.generate(from, options))

/** What must not depend on speculation. */
const output = ({ text, tokenIds, levels, finishReason, promptTokens }: Completion) => ({
  ...{ text, tokenIds, levels, finishReason, promptTokens },
})

const random = seeded(11)
const below = (limit: number) => Math.floor(random() * limit)
const speculate = (tokens: number, budget = 0.7) => ({ tokens, budget })

const greedy = suite('speculation: greedy')

/** A clock that moves on only as it is read: rounds then seem to cost no more than steps, so all that may be is drafted. */
async function withSlowClock(work: () => Promise<void>): Promise<void> {
  const { now } = performance
  let time = 0
  performance.now = () => (time += 10_000)
  try {
    await work()
  } finally {
    performance.now = now
  }
}

greedy('hundreds of prompts give level 0 token for token, with its probabilities', () =>
  withSlowClock(async () => {
    let drafted = 0
    let accepted = 0
    for (let i = 0; i < 300; i++) {
      const begin = below(text.length - 100)
      const ids =
        i % 2 === 0
          ? Array.from({ length: 1 + below(12) }, () => below(dense.config.vocabSize))
          : dense.tokenizer.encode(text.slice(begin, begin + 1 + below(60)))
      const maxTokens = 1 + below(24)
      const options = { maxTokens, speculate: speculate(1 + below(15), i % 3 === 0 ? 0.4 : 0.7) }
      const expected = await run({ maxTokens }, ids)
      const actual = await run(options, ids)
      assert.equal(output(actual), output(expected), `prompt ${ids.join(' ')}`)
      drafted += actual.drafted
      accepted += actual.accepted
    }
    assert.ok(drafted > 3000, `${drafted} drafted`)
    assert.ok(accepted > drafted / 10 && accepted < drafted, `${accepted} of ${drafted} accepted`)
  }),
)

greedy('logprobs are those of single steps, bit by bit', async () => {
  const logprobs = async (options: GenerateOptions) => {
    const all: number[] = []
    for await (const piece of small.generate(prompt, { maxTokens: 60, ...options })) all.push(piece.logprob)
    return all
  }
  assert.equal(await logprobs({ speculate: speculate(6) }), await logprobs({}))
})

greedy('every number of tokens asked for is what comes', async () => {
  const whole = await run({ maxTokens: 24 })
  for (let maxTokens = 0; maxTokens <= 24; maxTokens++) {
    const { tokenIds, finishReason } = await run({ maxTokens, speculate: speculate(15) })
    assert.equal(tokenIds, whole.tokenIds.slice(0, maxTokens))
    assert.is(finishReason, 'length')
  }
})

greedy('the mean active budget counts what drafts and level 0 have read', async () => {
  let speculated: Completion | undefined
  await withSlowClock(async () => {
    speculated = await run({ maxTokens: 80, speculate: speculate(4) })
  })
  const { tokenIds = [], meanActiveBudget = 0, drafted = 0, accepted = 0 } = speculated ?? {}
  const [top = 0, low = 0] = small.levels.map(({ budget }) => budget)
  const read = top * (tokenIds.length - accepted) + low * drafted
  assert.ok(drafted > 0)
  assert.ok(Math.abs(meanActiveBudget - read / tokenIds.length) < 1e-12)
  const plain = await run({ maxTokens: 80 })
  assert.equal([plain.drafted, plain.accepted], [0, 0])
})

greedy('a stop string inside an accepted run ends the text before it', async () => {
  const whole = await run({ maxTokens: 60 })
  for (let at = 5; at < 100; at += 9) {
    const stop = [whole.text.slice(at, at + 3)]
    assert.equal(
      output(await run({ maxTokens: 60, stop, speculate: speculate(8) })),
      output(await run({ maxTokens: 60, stop })),
    )
  }
})

/** The tiny model with an end token that it writes often. */
async function withFrequentEnd(token: number): Promise<Model> {
  const name = path.join(folder, `end-${token}`)
  cpSync(tinyModel, name, { recursive: true })
  for (const file of ['config.json', 'generation_config.json']) {
    const config = JSON.parse(readFileSync(path.join(name, file), 'utf8'))
    writeFileSync(path.join(name, file), JSON.stringify({ ...config, eos_token_id: token }))
  }
  const model = await Model.load(name)
  return compress(model, { keep: 0.9, levels: [0.9, 0.7], calibration: [text], samples: 8, seqLen: 128 })
}

greedy('an end token inside an accepted run ends the generation there', async () => {
  const { tokenIds } = await run({ maxTokens: 60 })
  const counts = new Map<number, number>()
  for (const token of tokenIds) counts.set(token, (counts.get(token) ?? 0) + 1)
  const [frequent] = [...counts].sort((a, b) => b[1] - a[1])[0] as [number, number]
  const model = await withFrequentEnd(frequent)
  let stopped = 0
  for (let i = 0; i < 40; i++) {
    const begin = below(text.length - 100)
    const from = text.slice(begin, begin + 40)
    const expected = await run({ maxTokens: 60 }, from, model)
    const actual = await run({ maxTokens: 60, speculate: speculate(8) }, from, model)
    assert.equal(output(actual), output(expected))
    if (expected.finishReason === 'stop' && expected.tokenIds.length > 4) stopped++
  }
  assert.ok(stopped > 5, `${stopped} ended by the end token`)
  model.dispose()
})

const drawn = suite('speculation: drawn tokens')

// Only cheap drafts are held worth it where no clock is asked.
const cheap = await compress(dense, { keep: 0.9, levels: [0.9, 0.1], calibration })
const drawCheaply = (options: GenerateOptions) => run(options, prompt, cheap)

drawn('equal seeds give equal tokens, others give others', async () => {
  for (const filters of [{}, { topK: 20 }, { topP: 0.9 }, { minP: 0.05 }]) {
    const options = { maxTokens: 40, temperature: 0.8, ...filters, speculate: speculate(5, 0.1) }
    const first = await drawCheaply({ ...options, seed: 3 })
    const again = await drawCheaply({ ...options, seed: 3 })
    assert.equal(
      [again.tokenIds, again.drafted, again.accepted],
      [first.tokenIds, first.drafted, first.accepted],
    )
    assert.ok(first.drafted > 0)
    assert.not.equal((await drawCheaply({ ...options, seed: 4 })).tokenIds, first.tokenIds)
  }
})

drawn('from the likeliest token alone, they are the greedy ones', async () => {
  const { tokenIds } = await drawCheaply({ maxTokens: 40 })
  const options = { maxTokens: 40, temperature: 1, topK: 1, speculate: speculate(5, 0.1) }
  assert.equal((await drawCheaply(options)).tokenIds, tokenIds)
})

drawn('what was drafted elsewhere, and how fast, changes nothing', async () => {
  const options = { maxTokens: 60, temperature: 0.8, seed: 5, speculate: speculate(5, 0.1) }
  const { tokenIds } = await drawCheaply(options)
  await withSlowClock(async () => {
    for (let seed = 6; seed < 9; seed++) await drawCheaply({ ...options, seed })
    await drawCheaply({ maxTokens: 60, speculate: speculate(5, 0.1) })
    assert.equal((await drawCheaply(options)).tokenIds, tokenIds)
  })
})

drawn('where even accepted drafts would gain nothing, none are made', async () => {
  const options = { maxTokens: 60, temperature: 0.8, seed: 5 }
  const plain = await run(options)
  const actual = await run({ ...options, speculate: speculate(5, 0.7) })
  assert.is(actual.drafted, 0)
  assert.equal(actual.tokenIds, plain.tokenIds)
})

const life = suite('speculation: sessions')

life('several generations and models at once give what each gives alone', async () => {
  const other = await compress(dense, { keep: 0.8, levels: [0.8, 0.5], calibration })
  const jobs = Array.from({ length: 8 }, (_, i) => ({
    model: i % 2 === 0 ? small : other,
    from: text.slice(200 * i, 200 * i + 50),
    options: { maxTokens: 30, speculate: speculate(2 + i, 0.6) },
  }))
  const together = await Promise.all(jobs.map(({ model, from, options }) => run(options, from, model)))
  for (const [i, { model, from }] of jobs.entries()) {
    assert.equal(output(together[i] as Completion), output(await run({ maxTokens: 30 }, from, model)))
  }
  other.dispose()
})

life('an abort ends a round at once, and the model goes on', async () => {
  const whole = await run({ maxTokens: 100 })
  for (const delay of [0, 3, 10, 25]) {
    const abort = new AbortController()
    const timer = setTimeout(() => abort.abort(), delay)
    const seen: number[] = []
    const generation = small.generate(prompt, {
      ...{ maxTokens: 400, speculate: speculate(15), signal: abort.signal },
    })
    await rejects(
      (async () => {
        for await (const piece of generation) seen.push(piece.tokenId)
        for (;;) await run({ maxTokens: 100, signal: abort.signal })
      })(),
      'E_ABORTED',
    )
    clearTimeout(timer)
    const shared = Math.min(seen.length, 100)
    assert.equal(seen.slice(0, shared), whole.tokenIds.slice(0, shared))
  }
  assert.equal((await run({ maxTokens: 100, speculate: speculate(6) })).tokenIds, whole.tokenIds)
})

life('a reader may leave in the middle of a run', async () => {
  const whole = await run({ maxTokens: 40 })
  for (let leave = 1; leave < 20; leave++) {
    const seen: number[] = []
    for await (const piece of small.generate(prompt, { maxTokens: 40, speculate: speculate(8) })) {
      seen.push(piece.tokenId)
      if (seen.length === leave) break
    }
    assert.equal(seen, whole.tokenIds.slice(0, leave))
  }
})

life('the turns of a chat are those of a chat without speculation, also after leaving one', async () => {
  const turns = ['Tell me of the king.', 'And then?', 'Who was she?', 'The end?']
  const answers = async (options: (turn: number) => GenerateOptions) => {
    const chat = small.chat()
    const all = []
    for (const [i, turn] of turns.entries()) {
      if (i === 2) {
        let left = 0
        for await (const _ of chat.send('Wait.', { maxTokens: 20, ...options(i) })) if (++left === 7) break
      }
      all.push(output(await complete(chat.send(turn, { maxTokens: 20, ...options(i) }))))
    }
    chat.dispose()
    return all
  }
  const expected = await answers(() => ({}))
  assert.equal(await answers(() => ({ speculate: speculate(6) })), expected)
  assert.equal(await answers((turn) => (turn % 2 === 0 ? { speculate: speculate(6) } : {})), expected)
})

const usage = suite('speculation: usage')

usage('what means nothing is E_USAGE, with the remedy', async () => {
  const wrong: GenerateOptions[] = [
    { speculate: speculate(0) },
    { speculate: speculate(16) },
    { speculate: speculate(1.5) },
    { speculate: speculate(4, 0) },
    { speculate: speculate(4, 1.2) },
    { speculate: speculate(4), schedule: constant(0.7) },
    { speculate: speculate(4), schedule: () => 1 },
    { speculate: speculate(4), topLogprobs: 1 },
  ]
  for (const options of wrong) await rejects(run(options), 'E_USAGE')
  assert.match((await rejects(run({ speculate: speculate(4, 0.9) }), 'E_USAGE')).message, '0.6')
  const one = await rejects(run({ speculate: speculate(4, 0.7) }, prompt, dense), 'E_USAGE')
  assert.match(one.message, '--levels')
  const { tokenIds } = await run({ maxTokens: 12 })
  const options = { maxTokens: 12, speculate: speculate(4), schedule: full() }
  assert.equal((await run(options)).tokenIds, tokenIds, 'full is no other schedule')
})

for (const tests of [greedy, drawn, life, usage]) tests.run()
