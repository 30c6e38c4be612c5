import { readFileSync } from 'node:fs'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { ChoiceSample } from '#lib/data/choices.js'
import { type DialogueSample, summaryPrompt } from '#lib/data/dialogues.js'
import { encodePair } from '#lib/evaluate/choice.js'
import { complete, compress, evaluate, Model, progressive } from '#lib/index.js'
import { rouge } from '#lib/rouge.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'

const model = await Model.load(tinyModel, { dtype: 'f32' })
const calibration = [readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')]
const small = await compress(model, {
  ...{ keep: 0.8, levels: [0.8, 0.5], calibration, samples: 4, seqLen: 64, method: 'uniform' },
})

const dialogues: DialogueSample[] = [
  {
    id: 'market',
    dialogue: 'A: I went to the market.\nB: What did you buy?\nA: Three apples and a hen.',
    summaries: ['A tells B that he bought three apples and a hen.', 'A went to the market.'],
  },
  {
    dialogue: 'A: The king is coming.\nB: Then we must sweep the yard.',
    summaries: ['The king is coming.'],
  },
  { id: 'wolf', dialogue: 'A: Did you hear the wolf?\nB: No.', summaries: ['B has not heard the wolf.'] },
]

const summaries = suite('summarize')

summaries('each text is what a chat of its own writes, scored against all references', async () => {
  const seen: number[] = []
  const result = await evaluate.summarize(model, dialogues, {
    maxTokens: 8,
    onProgress: ({ done }) => seen.push(done),
  })
  assert.equal(seen, [0, 1, 2, 3])
  assert.is(result.samples, 3)
  assert.equal(
    result.outputs.map(({ id, tokens }) => [id, tokens]),
    [
      ['market', 8],
      ['2', 8],
      ['wolf', 8],
    ],
  )
  for (const [index, { dialogue = '', summaries: references = [] }] of dialogues.entries()) {
    const output = result.outputs[index]
    const alone = await complete(model.chat().send(summaryPrompt(dialogue), { maxTokens: 8 }))
    assert.is(output?.text, alone.text)
    const scores = references.map((reference) => rouge(reference, alone.text))
    for (const measure of ['rouge1', 'rouge2', 'rougeL'] as const) {
      const mean = scores.reduce((sum, score) => sum + score[measure], 0) / scores.length
      assert.ok(Math.abs((output?.[measure] ?? -1) - mean) < 1e-12)
    }
    assert.is(output?.levels, undefined)
  }
  for (const measure of ['rouge1', 'rouge2', 'rougeL'] as const) {
    const mean = result.outputs.reduce((sum, output) => sum + output[measure], 0) / 3
    assert.ok(Math.abs(result[measure] - mean) < 1e-12)
    const [low, high] = result.intervals[measure]
    assert.ok(low <= mean && mean <= high)
  }
  assert.ok(result.rouge1 > 0, 'some word is right')
  assert.is(result.meanActiveBudget, 1)
  assert.is(result.bytesPerToken, model.levels[0]?.bytesPerToken)
})

summaries('a schedule lowers budget and bytes as its levels say', async () => {
  const schedule = progressive({ from: 0.8, to: 0.5, over: 2, shape: 'step' })
  const { outputs, meanActiveBudget, bytesPerToken } = await evaluate.summarize(small, dialogues, {
    ...{ limit: 2, maxTokens: 6, schedule },
  })
  assert.equal(
    outputs.map(({ levels }) => levels),
    [
      [0, 0, 1, 1, 1, 1],
      [0, 0, 1, 1, 1, 1],
    ],
  )
  const expected = (key: 'budget' | 'bytesPerToken') =>
    ((small.levels[0]?.[key] ?? 0) + 2 * (small.levels[1]?.[key] ?? 0)) / 3
  assert.ok(Math.abs(meanActiveBudget - expected('budget')) < 1e-12)
  assert.ok(Math.abs(bytesPerToken / expected('bytesPerToken') - 1) < 1e-12)
})

summaries('its own outputs are a perfect reference, another model’s are not', async () => {
  const options = { maxTokens: 12 }
  const dense = await evaluate.summarize(model, dialogues, options)
  assert.is(dense.reference, undefined)
  const again = await evaluate.summarize(model, dialogues, { ...options, reference: dense.outputs })
  assert.equal(again.reference, {
    ...{ rouge1: 1, rouge2: 1, rougeL: 1 },
    intervals: { rouge1: [1, 1], rouge2: [1, 1], rougeL: [1, 1] },
  })
  assert.is(again.rouge1, dense.rouge1)
  const other = await evaluate.summarize(small, dialogues, { ...options, reference: dense.outputs })
  const own = other.outputs.map(({ text }, index) => rouge(dense.outputs[index]?.text ?? '', text).rouge1)
  assert.ok(Math.abs((other.reference?.rouge1 ?? -1) - own.reduce((sum, score) => sum + score, 0) / 3) < 1e-12)
  assert.ok((other.reference?.rouge1 ?? 1) < 1)
})

summaries('what cannot be used', async () => {
  const run = (samples: DialogueSample[], options: Parameters<typeof evaluate.summarize>[2] = {}) =>
    throwsFlrcError(() => evaluate.summarize(model, samples, options), { code: 'E_USAGE' })
  await run([])
  await run(dialogues, { limit: 0 })
  await run([{ id: 'x', summaries: ['s'] }])
  await run([{ id: 'x', dialogue: 'd' }])
  await run(dialogues, { reference: [{ id: 'market', text: 'x' }] })
  const long = [{ id: 'long one', dialogue: 'and then '.repeat(400), summaries: ['s'] }]
  await throwsFlrcError(() => evaluate.summarize(model, long), {
    code: 'E_CONTEXT',
    message: /^sample long one: /,
  })
  const stopped = new AbortController()
  await throwsFlrcError(
    () =>
      evaluate.summarize(model, dialogues, {
        signal: stopped.signal,
        onProgress: ({ done }) => done === 1 && stopped.abort(),
      }),
    { code: 'E_ABORTED' },
  )
})

const logprobs = suite('logprobs')
const text = model.tokenizer.encode(readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8').slice(0, 700))

logprobs('their sum is the loss that perplexity measures', async () => {
  const tokens = text.slice(0, 128)
  const session = model.createSession()
  const values = await session.logprobs(tokens, 0, 1)
  session.release()
  assert.is(values.length, 127)
  const [loss = 0] = await model.windowLosses(tokens, 128, 0, {})
  const sum = -values.reduce((total, value) => total + value, 0)
  assert.ok(Math.abs(sum / loss - 1) < 1e-5, `${sum} and ${loss}`)
})

logprobs('continuations share a context and do not change each other', async () => {
  const context = text.slice(0, 20)
  const session = small.createSession()
  await session.prefill(context.slice(0, -1), 1)
  const score = async (begin: number, end: number) => {
    const values = await session.logprobs(Int32Array.of(...context.slice(-1), ...text.slice(begin, end)), 1, 1)
    session.rewind(context.length - 1)
    return Array.from(values)
  }
  const first = await score(20, 60)
  assert.equal((await score(60, 70)).length, 10)
  assert.equal(await score(20, 60), first)
  session.release()
})

logprobs('without a context, an abort and a full cache are errors that leave the session usable', async () => {
  const session = model.createSession()
  await throwsFlrcError(() => session.logprobs(text.slice(0, 4), 0), { code: 'E_INTERNAL' })
  const signal = AbortSignal.abort()
  await throwsFlrcError(() => session.logprobs(text.slice(0, 4), 0, 1, signal), { code: 'E_ABORTED' })
  const full = new Int32Array(model.config.contextLength + 1)
  await throwsFlrcError(() => session.logprobs(full, 0, 1), { code: 'E_CONTEXT' })
  assert.is((await session.logprobs(text.slice(0, 4), 0, 1)).length, 3)
  session.release()
})

const choices = suite('choice')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8').split('\n').slice(0, 16)

const middle = (line: string) => line.indexOf(' ', line.length / 2)
const reversed = (half: string) => ` ${half.trim().split(' ').reverse().join(' ')}`

/** A line's first half, and its second half among the words of this and of another in reverse. */
const samples: ChoiceSample[] = heldout.slice(0, 8).map((line, index) => {
  const own = line.slice(middle(line))
  const other = heldout[index + 8] ?? ''
  const choices = [reversed(own), reversed(other.slice(middle(other)))]
  const answer = index % 3
  choices.splice(answer, 0, own)
  return { context: line.slice(0, middle(line)), choices, answer }
})

choices('log-likelihoods are those of the texts read alone, at the level asked for', async () => {
  for (const [of, level] of [
    [model, 0],
    [small, 1],
  ] as const)
    await assertReadAlone(of, level)
})

async function assertReadAlone(of: Model, level: number): Promise<void> {
  const result = await evaluate.choice(of, samples, { limit: 2, level })
  assert.is(result.samples, 2)
  for (const [index, { logLikelihoods }] of result.outcomes.entries()) {
    const sample = samples[index]
    if (sample === undefined) throw new Error('a sample is missing')
    for (const [at, choice] of sample.choices.entries()) {
      const whole = of.tokenizer.encode(sample.context + choice)
      const context = of.tokenizer.encode(sample.context)
      const session = of.createSession()
      const values = await session.logprobs(whole, level, context.length)
      session.release()
      const expected = values.reduce((sum, value) => sum + value, 0)
      assert.ok(Math.abs((logLikelihoods[at] ?? 0) / expected - 1) < 1e-5)
    }
  }
}

choices('accuracies count what is likeliest, in all and by character', async () => {
  const result = await evaluate.choice(model, samples)
  assert.equal(
    result.outcomes.map(({ id, answer }) => [id, answer]),
    samples.map(({ answer }, index) => [String(index + 1), answer]),
  )
  let right = 0
  let rightByCharacter = 0
  for (const [index, { logLikelihoods }] of result.outcomes.entries()) {
    const { choices: texts = [], answer = -1 } = samples[index] ?? {}
    const best = (values: number[]) => values.indexOf(Math.max(...values))
    if (best(logLikelihoods) === answer) right++
    if (best(logLikelihoods.map((value, at) => value / (texts[at]?.length ?? 1))) === answer) rightByCharacter++
  }
  assert.is(result.accuracy, right / 8)
  assert.is(result.accuracyNormalised, rightByCharacter / 8)
  assert.ok(result.accuracyNormalised > 0.7, `${result.accuracyNormalised} is hardly better than chance`)
  for (const key of ['accuracy', 'accuracyNormalised'] as const) {
    const [low, high] = result.intervals[key]
    assert.ok(low <= result[key] && result[key] <= high)
  }
})

choices('characters are those of Unicode, also where JavaScript takes two for one', async () => {
  const texts = [' 👍👍👍👍', ' 王王王王']
  const { outcomes } = await evaluate.choice(model, [{ context: 'The king', choices: texts, answer: 0 }])
  const [one] = outcomes
  const likeliestBy = (lengthOf: (content: string) => number) => {
    const values = one?.logLikelihoods.map((value, at) => value / lengthOf(texts[at] ?? '')) ?? []
    return values.indexOf(Math.max(...values))
  }
  assert.is(
    one?.chosenNormalised,
    likeliestBy(() => 5),
  )
  assert.is.not(
    one?.chosenNormalised,
    likeliestBy((content) => content.length),
  )
})

choices('a level of its own, and the order of choices does not matter', async () => {
  const [sample] = samples
  if (sample === undefined) throw new Error('a sample is missing')
  const turned = { ...sample, choices: sample.choices.toReversed(), answer: 2 - sample.answer }
  const run = async (level: number, one: ChoiceSample) =>
    (await evaluate.choice(small, [one], { level })).outcomes[0]?.logLikelihoods ?? []
  const values = await run(1, sample)
  assert.equal((await run(1, turned)).toReversed(), values)
  assert.not.equal(await run(0, sample), values)
})

choices('the boundary of context and choice is lm-eval’s', () => {
  const tokens = (content: string) => Array.from(model.tokenizer.encode(content))
  const plain = encodePair(model, 'The king', ' was old')
  assert.equal(Array.from(plain.tokens), tokens('The king was old'))
  assert.is(plain.from, tokens('The king').length)
  assert.equal(encodePair(model, 'The king ', 'was old'), plain, 'a blank goes to the choice')
  const begin = model.config.bosTokenId ?? model.config.eosTokenIds[0]
  const empty = encodePair(model, '', 'The king')
  assert.equal(Array.from(empty.tokens), [begin, ...tokens('The king')])
  assert.is(empty.from, 1)
  const melted = encodePair(model, 'The kin', 'g')
  assert.is(melted.from, melted.tokens.length - 1, 'a choice has one token at least')
})

choices('what cannot be used', async () => {
  const sample = { context: 'The king', choices: [' was', ' is'], answer: 0 }
  const refused = (wrong: ChoiceSample[], options = {}) =>
    throwsFlrcError(() => evaluate.choice(model, wrong, options), { code: 'E_USAGE' })
  await refused([])
  await refused([sample], { limit: 0.5 })
  await refused([sample], { level: 1 })
  await refused([sample, { ...sample, answer: 2 }])
  await refused([{ ...sample, choices: [' was'] }])
  await refused([{ ...sample, choices: [' was', ''] }])
  const long = { ...sample, id: 'long one', context: 'and then '.repeat(400) }
  await throwsFlrcError(() => evaluate.choice(model, [long]), {
    code: 'E_CONTEXT',
    message: /^sample long one: /,
  })
  const signal = AbortSignal.abort()
  await throwsFlrcError(() => evaluate.choice(model, samples, { signal }), { code: 'E_ABORTED' })
})

for (const tests of [summaries, logprobs, choices]) tests.run()
