import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { renderChat } from '#lib/chat-template.js'
import { type DialogueSample, summaryPrompt } from '#lib/data/dialogues.js'
import { agreementOf } from '#lib/evaluate/agreement.js'
import { textPrompts } from '#lib/evaluate/prompts.js'
import { DecodeBatch } from '#lib/generate/batch.js'
import {
  type Completion,
  complete,
  compress,
  evaluate,
  FlrcError,
  type GenerateOptions,
  Model,
  progressive,
  type Schedule,
} from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { tinyGguf } from './support/gguf-writer.js'
import { temporaryDirectory } from './support/paths.js'

const model = await Model.load(tinyModel, { dtype: 'f32' })
const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const small = await compress(model, {
  ...{ keep: 0.8, levels: [0.8, 0.5], calibration, samples: 4, seqLen: 64, method: 'uniform' },
})

/** 21 of them, so that they do not all fit side by side; of different lengths. */
const dialogues: DialogueSample[] = heldout
  .split('\n')
  .filter((line) => line.length > 40)
  .slice(0, 21)
  .map((line, index) => ({
    id: `d${index}`,
    dialogue: line.slice(0, 40 + 17 * (index % 6)),
    summaries: ['The king is coming.'],
  }))

const alone = (from: Model, { dialogue = '' }: DialogueSample, options: GenerateOptions): Promise<Completion> =>
  complete(from.chat().send(summaryPrompt(dialogue), options))

const step = progressive({ from: 0.8, to: 0.5, over: 3, shape: 'step' })

const together = suite('side by side')

together('each sample is what its own generation gives, whoever ends when', async () => {
  // Levels differ between samples at the same step.
  const mixed: Schedule = (_, { promptTokens, entropy }) => ((promptTokens % 3) + entropy > 2 ? 0.8 : 0.5)
  const runs: [Model, number, Schedule | undefined][] = [
    [model, 110, undefined],
    [small, 24, step],
    [small, 24, mixed],
  ]
  const ends = new Set<number>()
  for (const [of, maxTokens, schedule] of runs) {
    const options = { maxTokens, schedule }
    const { outputs } = await evaluate.summarize(of, dialogues, options)
    assert.is(outputs.length, dialogues.length)
    for (const [index, sample] of dialogues.entries()) {
      const own = await alone(of, sample, options)
      const output = outputs[index]
      assert.is(output?.text, own.text)
      assert.is(output?.tokens, own.tokenIds.length)
      assert.equal(output?.levels, schedule && own.levels)
      ends.add(own.tokenIds.length)
    }
  }
  assert.ok(ends.size > 2, 'some end before others')
})

together('a sample that fails is named, ends the others, and leaves the model usable', async () => {
  const passes = { count: 0 }
  const schedule: Schedule = (at, { promptTokens }) => {
    passes.count++
    return at === 2 && promptTokens === longest ? Number.NaN : 0.8
  }
  const prompts = await Promise.all(dialogues.map((sample) => alone(small, sample, { maxTokens: 1 })))
  const longest = Math.max(...prompts.map(({ promptTokens }) => promptTokens))
  const names = dialogues.filter((_, index) => prompts[index]?.promptTokens === longest).map(({ id }) => id)
  await throwsFlrcError(() => evaluate.summarize(small, dialogues, { maxTokens: 200, schedule }), {
    code: 'E_USAGE',
    message: new RegExp(`^sample (${names.join('|')}): the schedule gave NaN at step 2`),
  })
  assert.ok(passes.count < 21 * 10, `the others went on for ${passes.count} steps`)
  await evaluate.summarize(small, dialogues, { limit: 2, maxTokens: 2 })
})

together('an abort and the end of the model end all of them', async () => {
  const stopped = new AbortController()
  const slow: Schedule = (at) => {
    if (at === 3) stopped.abort()
    return 0.8
  }
  const options = { maxTokens: 200, schedule: slow, signal: stopped.signal }
  await throwsFlrcError(() => evaluate.summarize(small, dialogues, options), { code: 'E_ABORTED' })
  const short = await Model.load(tinyModel)
  const disposing: Schedule = (at) => {
    if (at === 3) short.dispose()
    return 1
  }
  await throwsFlrcError(() => evaluate.summarize(short, dialogues, { maxTokens: 200, schedule: disposing }), {
    code: 'E_ABORTED',
  })
})

together('a batch waits for those that are open, not for those that were released', async () => {
  const batch = new DecodeBatch(model, { waitsFor: 'all' })
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }
  const [a, b] = [batch.open(), batch.open()]
  await Promise.all([a, b].map((session) => session.prefill(Int32Array.of(5, 6), 0)))
  let settled = false
  const first = a.decode(7, 0, sampling).finally(() => {
    settled = true
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.not.ok(settled, 'b has not asked yet')
  const failed = throwsFlrcError(() => b.decode(-1, 0, sampling), { code: 'E_INTERNAL' })
  await throwsFlrcError(() => first, { code: 'E_INTERNAL' })
  await failed
  b.release()
  b.release()
  const own = model.createSession()
  await own.prefill(Int32Array.of(5, 6), 0)
  assert.equal(await a.decode(7, 0, sampling), await own.decode(7, 0, sampling))
  await throwsFlrcError(() => a.decode(7, 0, sampling, AbortSignal.abort()), { code: 'E_ABORTED' })
  a.release()
  own.release()
})

const agreements = suite('agreement')

agreements('a model agrees with itself entirely, up to the end token', async () => {
  const result = await evaluate.agreement(model, model, dialogues, { maxTokens: 110 })
  assert.is(result.agreement, 1)
  assert.is(result.meanKl, 0)
  assert.equal(result.intervals, { agreement: [1, 1], meanKl: [0, 0] })
  assert.is(result.samples, dialogues.length)
  assert.is(result.meanActiveBudget, 1)
  assert.is(result.byStep[0]?.samples, dialogues.length)
  let tokens = 0
  for (const sample of dialogues) {
    const { tokenIds, finishReason } = await alone(model, sample, { maxTokens: 110 })
    tokens += tokenIds.length + Number(finishReason === 'stop')
  }
  assert.is(result.tokens, tokens)
  assert.is(
    result.byStep.reduce((sum, at) => sum + at.samples, 0),
    tokens,
  )
})

agreements('shares and divergences are those of the model reading the reference’s tokens', async () => {
  const chosen = dialogues.slice(0, 5)
  const maxTokens = 10
  const seen: number[] = []
  const result = await evaluate.agreement(small, model, chosen, {
    ...{ maxTokens, schedule: step },
    onProgress: ({ done }) => seen.push(done),
  })
  assert.equal(seen, [0, 5])
  let agreed = 0
  let tokens = 0
  const leastKl: number[] = []
  for (const sample of chosen) {
    const theirs = await alone(model, sample, { maxTokens })
    const said = theirs.finishReason === 'stop' ? [...theirs.tokenIds, endOf(model)] : theirs.tokenIds
    const session = await promptSession(small, sample)
    const dense = await promptSession(model, sample)
    for (const [at, token] of said.entries()) {
      const level = at < 3 ? 0 : 1
      const before = said[at - 1]
      const says = before === undefined ? session.sample(greedy) : await session.decode(before, level, greedy)
      const reference = before === undefined ? dense.sample(greedy) : await dense.decode(before, 0, greedy)
      assert.is(reference.tokenId, token)
      agreed += Number(says.tokenId === token)
      tokens++
      // Of the two events "this token" and "another", a divergence that the whole one cannot be below.
      const p = Math.exp(reference.logprob)
      const fork = await session.fork()
      const [logprob = 0] = await fork.logprobs(Int32Array.of(token), level)
      fork.release()
      const q = Math.exp(logprob)
      leastKl.push(p * Math.log(p / q) + (p < 1 ? (1 - p) * Math.log((1 - p) / (1 - q)) : 0))
    }
    session.release()
    dense.release()
  }
  assert.is(result.tokens, tokens)
  assert.ok(Math.abs(result.agreement - agreed / tokens) < 1e-12)
  assert.ok(agreed < tokens, 'half the parameters change something')
  const least = leastKl.reduce((sum, value) => sum + value, 0) / tokens
  assert.ok(least > 0 && result.meanKl > least, `${result.meanKl} and ${least}`)
  const weighted = (key: 'agreement' | 'kl') =>
    result.byStep.reduce((sum, at) => sum + at[key] * at.samples, 0) / tokens
  assert.ok(Math.abs(weighted('agreement') - result.agreement) < 1e-12)
  assert.ok(Math.abs(weighted('kl') - result.meanKl) < 1e-12)
  const [high, low] = small.levels.map(({ budget }) => budget)
  assert.equal(
    result.byStep.slice(0, 5).map((at) => at.activeBudget),
    [high, high, high, low, low].map((budget) => (5 * (budget ?? 0)) / 5),
  )
  const { agreement, meanKl } = result.intervals
  assert.ok(agreement[0] <= result.agreement && result.agreement <= agreement[1])
  assert.ok(meanKl[0] <= result.meanKl && result.meanKl <= meanKl[1])
})

agreements('counts tokens, of which samples may have more or fewer', () => {
  const run = (kl: number[], agrees: boolean[]) => ({ kl, agrees, entropy: kl, levels: kl.map(() => 0) })
  const runs = [run([0], [true]), run([1, 1, 1], [false, false, false])]
  const { agreement, meanKl } = agreementOf({ levels: small.levels.slice(0, 1) }, runs)
  assert.equal([agreement, meanKl], [0.25, 0.75])
})

agreements('windows of a text follow each other, each behind the begin token where there is one', () => {
  const begin = 1
  const codes = Array.from({ length: 300 }, (_, index) => 1000 + index)
  const encode = (content: string) => Int32Array.from([begin, ...codes.slice(0, content.length)])
  const from = Object.create(small, { tokenizer: { value: { addsBos: true, encode } } }) as Model
  const prompts = textPrompts(from, String.fromCharCode(...codes), { limit: undefined, maxTokens: 8 })
  assert.equal(
    prompts.map(({ tokens }) => tokens),
    [
      [begin, ...codes.slice(0, 128)],
      [begin, ...codes.slice(128, 256)],
    ],
  )
})

agreements('against its own level 0, a schedule is exact until it falls', async () => {
  const { byStep } = await evaluate.agreement(small, small, heldout, {
    ...{ limit: 18, maxTokens: 8, schedule: step },
  })
  assert.is(byStep.length, 8)
  for (const at of byStep) {
    assert.is(at.kl === 0, at.step < 3, `step ${at.step} has ${at.kl}`)
    if (at.step < 3) assert.is(at.agreement, 1)
  }
})

agreements('chats ask for the answer to what is before their last answers', async () => {
  const ask = { role: 'user', content: summaryPrompt('A: The king is coming.') }
  const run = (sample: DialogueSample) => evaluate.agreement(small, model, [sample], { maxTokens: 4 })
  const expected = await run({ dialogue: 'A: The king is coming.' })
  assert.equal(await run({ messages: [ask, { role: 'assistant', content: 'yes' }] }), expected)
  assert.equal(await run({ messages: [ask] }), expected)
  await throwsFlrcError(() => run({ id: 'x', messages: [{ role: 'assistant', content: 'yes' }] }), {
    code: 'E_USAGE',
    message: /^sample x asks nothing/,
  })
})

agreements('what cannot be used', async () => {
  const run = (samples: DialogueSample[] | string, options = {}, reference = model) =>
    evaluate.agreement(small, reference, samples, { maxTokens: 4, ...options })
  const refused = (...args: Parameters<typeof run>) => throwsFlrcError(() => run(...args), { code: 'E_USAGE' })
  await refused([])
  await refused('too short')
  await refused(dialogues, { limit: 0 })
  await refused(dialogues, { maxTokens: 0 })
  await refused(dialogues, { schedule: progressive({ from: 0.9, to: 0.5, over: 2 }) })
  const long = [{ id: 'long one', dialogue: 'and then '.repeat(400) }]
  await throwsFlrcError(() => run(long), { code: 'E_CONTEXT', message: /^sample long one: / })
  await throwsFlrcError(() => run(heldout, { maxTokens: 500 }), { code: 'E_CONTEXT', message: /^sample 1: / })
  await throwsFlrcError(() => run(dialogues, { signal: AbortSignal.abort() }), { code: 'E_ABORTED' })
  const stopped = new AbortController()
  const schedule: Schedule = (at) => {
    if (at === 2) stopped.abort()
    return 0.8
  }
  await throwsFlrcError(() => run(dialogues, { schedule, signal: stopped.signal }), { code: 'E_ABORTED' })
  const file = path.join(temporaryDirectory(), 'other.gguf')
  writeFileSync(file, tinyGguf())
  const other = await Model.load(file)
  await throwsFlrcError(() => run(dialogues, {}, other), { code: 'E_USAGE', file })
  other.dispose()
  const gone = await Model.load(tinyModel)
  gone.dispose()
  await throwsFlrcError(() => run(dialogues, {}, gone), { code: 'E_DISPOSED' })
})

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }

function endOf({ tokenizer }: Model): number {
  const [end] = tokenizer.eosTokenIds
  if (end === undefined) throw new FlrcError('E_INTERNAL', 'the tiny model has an end token')
  return end
}

/** A session that holds the prompt of a dialogue. */
async function promptSession(of: Model, { dialogue = '' }: DialogueSample) {
  const prompt = of.tokenizer.encode(await renderedPrompt(of, dialogue), { addSpecial: false })
  const session = of.createSession()
  await session.prefill(prompt, 0)
  return session
}

function renderedPrompt(of: Model, dialogue: string): Promise<string> {
  const { bosToken, eosToken } = of.tokenizer
  const template = of.source.tokenizer().chatTemplate ?? ''
  return renderChat(template, [{ role: 'user', content: summaryPrompt(dialogue) }], { bosToken, eosToken })
}

together.run()
agreements.run()
