import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { checkOptions } from '#lib/generate/options.js'
import { decode } from '#lib/generate.js'
import {
  Calibration,
  calibrate,
  calibrateSchedule,
  complete,
  compress,
  evaluate,
  exportModel,
  type GenerateOptions,
  inspect,
  Model,
  progressive,
  sensitivitySearch,
  serve,
} from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { rejects, throwsFlrcError } from './support/flrc-error.js'

const folder = mkdtempSync(path.join(tmpdir(), 'flrc-test-'))
const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const prompt = 'Once upon a time there was a king who'
const model = await Model.load(tinyModel)
const calibration: Calibration = await calibrate(model, {
  ...{ calibration: [text], samples: 8, seqLen: 128 },
  inputMoments: true,
})
const levels = [0.8, 0.6, 0.4]
const small = await compress(model, { keep: 0.8, levels, calibration })

const run = (options: GenerateOptions, from = small) => complete(from.generate(prompt, options))

const generation = suite('generation')

generation('pieces join to the text of their tokens', async () => {
  const {
    text: whole,
    tokenIds,
    levels: at,
    promptTokens,
    finishReason,
    meanActiveBudget,
  } = await run({}, model)
  assert.is(tokenIds.length, 64)
  assert.is(finishReason, 'length')
  assert.is(promptTokens, model.tokenizer.encode(prompt).length)
  assert.is(whole, model.tokenizer.decode(tokenIds))
  assert.equal(new Set(at), new Set([0]))
  assert.is(meanActiveBudget, 1)
})

generation('token ids are as good as their text', async () => {
  const ids = model.tokenizer.encode(prompt)
  const { text: fromIds } = await complete(model.generate(ids, { maxTokens: 12 }))
  assert.is(fromIds, (await run({ maxTokens: 12 }, model)).text)
})

generation('an empty prompt begins with the begin token', async () => {
  const { promptTokens, tokenIds } = await complete(model.generate('', { maxTokens: 3 }))
  assert.is(promptTokens, 1)
  assert.is(tokenIds.length, 3)
})

generation('no tokens asked for, none generated', async () => {
  const { tokenIds, text: none, finishReason, meanActiveBudget } = await run({ maxTokens: 0 })
  assert.equal([tokenIds, none, finishReason, meanActiveBudget], [[], '', 'length', 0])
})

generation(
  'logprobs are those of greedy choices: at most 0, and the first is that of every other way',
  async () => {
    const pieces = []
    for await (const piece of model.generate(prompt, { maxTokens: 8 })) pieces.push(piece)
    assert.ok(pieces.every(({ logprob }) => logprob <= 0 && logprob > -20))
    const one = await model.generate(prompt, { maxTokens: 1 }).next()
    assert.is(one.value && 'logprob' in one.value && one.value.logprob, pieces[0]?.logprob)
  },
)

generation('equal seeds give equal samples, others give others', async () => {
  const options = { temperature: 1, maxTokens: 24 }
  const [first, again, other] = [
    await run({ ...options, seed: 7 }),
    await run({ ...options, seed: 7 }),
    await run({ ...options, seed: 8 }),
  ]
  assert.equal(first.tokenIds, again.tokenIds)
  assert.not.equal(first.tokenIds, other.tokenIds)
  const single = await run({ ...options, topK: 1 })
  assert.equal(single.tokenIds, (await run({ maxTokens: 24 })).tokenIds, 'top-k 1 is greedy')
})

generation('penalties are those of CTRL and of OpenAI, of the text so far', async () => {
  const session = model.createSession()
  const tokens = Array.from(model.tokenizer.encode(prompt))
  await session.prefill(Int32Array.from(tokens), 0)
  const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }
  const expected: number[] = []
  const written = new Map<number, number>()
  for (let next = 0; expected.length < 24; ) {
    const all = [...new Set([...tokens, ...expected])]
    const offset = (count: number) => (count > 0 ? 0.75 + 0.5 * count : 0)
    const penalties = {
      tokens: Int32Array.from(all),
      factors: Float64Array.from(all, () => 1.2),
      offsets: Float64Array.from(all, (token) => offset(written.get(token) ?? 0)),
    }
    if (expected.length === 0) next = session.sample({ ...greedy, penalties }).tokenId
    else next = (await session.decode(next, 0, { ...greedy, penalties })).tokenId
    expected.push(next)
    written.set(next, (written.get(next) ?? 0) + 1)
  }
  session.release()
  const options = { repeatPenalty: 1.2, frequencyPenalty: 0.5, presencePenalty: 0.75, maxTokens: 24 }
  const penalised = await run(options, model)
  assert.equal(penalised.tokenIds, expected)
  const plain = await run({ maxTokens: 24 }, model)
  assert.not.equal(plain.tokenIds, expected)
  const generated = await run({ presencePenalty: 0.75, maxTokens: 1 }, model)
  assert.equal(generated.tokenIds, plain.tokenIds.slice(0, 1), 'the prompt counts for the repeat penalty alone')
})

generation('a stop string ends the text before it', async () => {
  const whole = (await run({ maxTokens: 40 }, model)).text
  const stop = whole.slice(20, 27)
  const stopped = await run({ maxTokens: 40, stop: ['never there', stop] }, model)
  assert.is(stopped.finishReason, 'stop')
  assert.is(stopped.text, whole.slice(0, whole.indexOf(stop)))
  assert.is(stopped.levels.length, stopped.tokenIds.length)
  assert.is((await run({ maxTokens: 40, stop }, model)).text, stopped.text, 'one string is a list of one')
})

generation('the level of token i is the schedule at i, the first token from prefill', async () => {
  const schedule = progressive({ from: 0.8, to: 0.4, over: 8, shape: 'step' })
  const { levels: at, meanActiveBudget } = await run({ schedule, maxTokens: 12 })
  assert.equal(at, [0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2])
  const expected = (8 * (small.levels[0]?.budget ?? 0) + 4 * (small.levels[2]?.budget ?? 0)) / 12
  assert.ok(Math.abs(meanActiveBudget - expected) < 1e-12)
})

generation('a function of the step may be the schedule, and hears of the context', async () => {
  const heard: number[] = []
  const schedule: GenerateOptions['schedule'] = (step, context) => {
    heard.push(step)
    assert.is(context.step, step)
    assert.is(context.promptTokens, small.tokenizer.encode(prompt).length)
    assert.ok(context.entropy > 0)
    assert.equal(
      context.levels.map(({ budget }) => budget),
      small.levels.map(({ budget }) => budget),
    )
    return context.entropy > 1e9 ? 0.8 : 0.45
  }
  const { levels: at } = await run({ schedule, maxTokens: 4 })
  assert.equal(heard, [1, 2, 3])
  assert.equal(at, [0, 2, 2, 2])
})

generation('a schedule may be given as the command line writes it', async () => {
  const written = await complete(small.generate(prompt, { maxTokens: 6, schedule: 'step:.8:.4:3' }))
  assert.equal(written.levels, [0, 0, 0, 2, 2, 2])
})

generation('options that cannot be used are E_USAGE, an overflow E_CONTEXT', async () => {
  const wrong: GenerateOptions[] = [
    { maxTokens: -1 },
    { maxTokens: 1.5 },
    { temperature: Number.NaN },
    { topP: 0 },
    { minP: 1.1 },
    { seed: -1 },
    { repeatPenalty: 0 },
    { frequencyPenalty: 2.1 },
    { presencePenalty: Number.NaN },
    { presencePenalty: 1, speculate: { tokens: 3, budget: 0.4 } },
    { stop: [''] },
    { schedule: () => Number.NaN },
    { schedule: progressive({ from: 0.9, to: 0.4, over: 4 }) },
    { schedule: 'linear:.9' },
    { schedule: '' },
  ]
  for (const options of wrong) await rejects(run(options), 'E_USAGE')
  await rejects(complete(model.generate([1, 2, 999_999])), 'E_USAGE')
  await rejects(run({ maxTokens: 512 }), 'E_CONTEXT')
})

generation('half a character before the end token is not lost', async () => {
  const [half = 0] = model.tokenizer.encode('👍')
  const [end = 0] = model.tokenizer.eosTokenIds
  const script = [half, end].map((tokenId) => ({ tokenId, logprob: 0, entropy: 0 }))
  const next = () => {
    const step = script.shift()
    if (step === undefined) throw new Error('it goes on behind the end')
    return step
  }
  const session = {
    prefill: async () => 0,
    sample: next,
    decode: async () => next(),
    speculate: async () => ({ steps: [next()], drafted: 0, draftSeconds: 0 }),
  }
  const options = { ...checkOptions({}, model), reused: 0 }
  const { text, tokenIds } = await complete(decode(model, session, [5], options, new AbortController().signal))
  assert.equal([text, tokenIds], ['\ufffd', [half]])
})

const chats = suite('chat')

chats('a listener that throws leaves the turn', async () => {
  const chat = model.chat()
  const refuse = () => {
    throw new Error('no')
  }
  await complete(chat.send('One.', { maxTokens: 4 }), refuse).then(
    () => assert.unreachable(),
    (error: Error) => assert.is(error.message, 'no'),
  )
  assert.is((await complete(chat.send('Two.', { maxTokens: 2 }))).tokenIds.length, 2)
  chat.dispose()
})

chats('dispose while the template renders ends the turn', async () => {
  const chat = model.chat()
  const first = chat.send('One.').next()
  chat.dispose()
  await rejects(first, 'E_DISPOSED')
})

chats('a second turn continues the first, as a fresh chat of the same messages would', async () => {
  const chat = model.chat({ messages: [{ role: 'system', content: 'Speak in verse.' }] })
  const first = await complete(chat.send('Continue this text.', { maxTokens: 12 }))
  const second = await complete(chat.send('And more.', { maxTokens: 12 }))
  assert.equal(
    chat.messages.map(({ role }) => role),
    ['system', 'user', 'assistant', 'user', 'assistant'],
  )
  assert.is(chat.messages[2]?.content, first.text)
  assert.ok(second.promptTokens > first.promptTokens + 12)
  const fresh = model.chat({ messages: chat.messages.slice(0, 3) })
  const repeated = await complete(fresh.send('And more.', { maxTokens: 12 }))
  assert.equal(repeated.tokenIds, second.tokenIds)
  chat.dispose()
  await rejects(complete(chat.send('x')), 'E_DISPOSED')
})

chats('each turn starts its schedule at step 0, and turns do not overlap', async () => {
  const chat = small.chat()
  const schedule = progressive({ from: 0.8, to: 0.4, over: 4, shape: 'step' })
  for (const turn of ['One.', 'Two.']) {
    const { levels: at } = await complete(chat.send(turn, { maxTokens: 6, schedule }))
    assert.equal(at, [0, 0, 0, 0, 2, 2].slice(0, at.length))
    assert.ok(at.length > 4)
  }
  const pieces = chat.send('Three.')
  await pieces.next()
  await rejects(complete(chat.send('Four.')), 'E_USAGE')
  await pieces.return(undefined)
  assert.is((await complete(chat.send('Five.', { maxTokens: 2 }))).tokenIds.length, 2)
})

const compression = suite('compression')

compression('budgets are met, falling, and the report adds up', () => {
  assert.is(small.levels.length, 3)
  for (const [index, { budget }] of small.levels.entries()) {
    const asked = levels[index] ?? 0
    assert.ok(budget <= asked && budget > asked - 0.01, `level ${index} has ${budget}`)
  }
  const report = small.report
  assert.ok(report)
  assert.is(report.keep, 0.8)
  assert.is(report.storedParameters, small.levels[0]?.parameters)
  assert.is(report.denseParameters, model.denseParameters)
  assert.is(Object.keys(report.ranks).length + report.dense.length, model.projections.length)
  assert.is(Object.keys(report.scores).length, model.projections.length)
  assert.ok(report.storedBytes < report.sourceBytes)
})

compression('the Fisher scores are finite and not all alike', () => {
  const scores = Object.values(calibration.scores).map(({ fisher }) => fisher)
  assert.is(scores.length, model.projections.length)
  assert.ok(scores.every((score) => Number.isFinite(score) && score > 0))
  assert.ok(Math.max(...scores) > 2 * Math.min(...scores))
})

compression('a checkpoint is the model that was saved, whatever the storage and type', async () => {
  for (const [storage, dtype] of [
    ['pivoted', 'bf16'],
    ['plain', 'bf16'],
    ['pivoted', 'int8'],
    ['pivoted', 'int4'],
  ] as const) {
    const name = path.join(folder, `${storage}-${dtype}`)
    const made = await compress(model, { keep: 0.8, levels: [0.8, 0.5], calibration, storage, dtype })
    await made.save(name)
    const loaded = await Model.load(name)
    assert.is(loaded.dtype, dtype)
    assert.is(loaded.keep, 0.8)
    assert.equal(
      loaded.levels.map(({ ranks }) => ranks),
      made.levels.map(({ ranks }) => ranks),
    )
    for (const level of [0, 1]) {
      const options = { seqLen: 128, windows: 4, level }
      const [saved, back] = [
        await evaluate.perplexity(made, heldout, options),
        await evaluate.perplexity(loaded, heldout, options),
      ]
      assert.ok(Math.abs(back.perplexity / saved.perplexity - 1) < 1e-4, `${storage} ${dtype} level ${level}`)
    }
    const seen = await inspect(name)
    assert.equal(
      seen.levels.map(({ budget }) => budget),
      made.levels.map(({ budget }) => budget),
    )
    assert.is(typeof seen.projections[0]?.score, 'number')
    await rejects(made.save(name), 'E_EXISTS')
    await made.save(name, { overwrite: true })
    made.dispose()
    loaded.dispose()
  }
})

compression('a dense export has the perplexity of the compressed model', async () => {
  const name = path.join(folder, 'export')
  await exportModel(small, name)
  const dense = await Model.load(name)
  assert.is(dense.source.format, 'huggingface')
  const options = { seqLen: 128, windows: 4 }
  const [a, b] = [
    await evaluate.perplexity(small, heldout, options),
    await evaluate.perplexity(dense, heldout, options),
  ]
  assert.ok(Math.abs(a.perplexity / b.perplexity - 1) < 5e-3, `${a.perplexity} and ${b.perplexity}`)
})

compression('keep 1 loses nothing', async () => {
  const whole = await compress(model, { keep: 1, calibration })
  const options = { seqLen: 128, windows: 2 }
  const [a, b] = [
    await evaluate.perplexity(whole, heldout, options),
    await evaluate.perplexity(model, heldout, options),
  ]
  assert.is(a.perplexity, b.perplexity)
})

compression('options that cannot be used', async () => {
  for (const keep of [0, -1, 1.5, Number.NaN]) await rejects(compress(model, { keep, calibration }), 'E_USAGE')
  await rejects(compress(model, { keep: 0.5, levels: [0.6], calibration }), 'E_USAGE')
  await rejects(compress(model, { keep: 0.8, calibration: [] }), 'E_CALIBRATION')
  const short = { keep: 0.8, calibration: ['short'] }
  await rejects(compress(model, short), 'E_CALIBRATION')
  // Before anything is calibrated, so the text that is too short is not come to.
  for (const options of [
    { keep: 1e-9 },
    { rankFloor: 1000, dense: false },
    { levels: [0.7], levelWeights: [1] },
  ]) {
    await rejects(compress(model, { ...short, ...options }), 'E_USAGE')
  }
  const target = { targetBytes: 1e6, calibration: ['short'], levels: [0.7, 0.6] }
  await rejects(compress(model, { ...target, levelWeights: [1, 1] }), 'E_USAGE')
  await rejects(compress(model, { ...target, levelWeights: [2, 1, 1] }), 'E_CALIBRATION')
  await rejects(compress(small, { keep: 0.8, calibration: [text] }), 'E_USAGE')
  await rejects(compress(model, { keep: 0.8, calibration: [text], seqLen: 1024 }), 'E_CONTEXT')
  await rejects(model.save(path.join(folder, 'dense')), 'E_USAGE')
})

const measuring = suite('perplexity and windows')

measuring('perplexity of the embedded model is what PyTorch measured', async () => {
  const recorded = /heldout\.txt \|[^|]*\| ([\d.]+) \|/.exec(
    readFileSync(path.join(tinyModel, 'README.md'), 'utf8'),
  )
  const exact = await Model.load(tinyModel, { dtype: 'f32' })
  const { perplexity, windows, tokens } = await evaluate.perplexity(exact, heldout, { seqLen: 256 })
  assert.is(tokens, windows * 255)
  assert.ok(Math.abs(perplexity / Number(recorded?.[1]) - 1) < 5e-4, `${perplexity}, recorded ${recorded?.[1]}`)
})

measuring('line ends do not change a text, and the tail is dropped', async () => {
  const options = { seqLen: 64, windows: 3 }
  const unix = await evaluate.perplexity(model, heldout, options)
  assert.equal(await evaluate.perplexity(model, heldout.replaceAll('\n', '\r\n'), options), unix)
  const whole = model.tokenizer.encode(heldout.slice(0, 2000))
  const { windows } = await evaluate.perplexity(model, heldout.slice(0, 2000), { seqLen: 64 })
  assert.is(windows, Math.floor(whole.length / 64))
})

const mistakes = suite('what programs without types pass in')

mistakes('is E_USAGE that names the argument and what it may be', async () => {
  const any = (value: unknown) => value as never
  // Too little text, which is not come to.
  const short = { keep: 0.5, calibration: ['short'] }
  const cases: [said: RegExp, call: () => Promise<unknown>][] = [
    [/the model is undefined; it must be a string, a path/, () => Model.load(any(undefined))],
    [/the model is file:.*; it must be a string/, () => Model.load(any(new URL('file:///model')))],
    [/dtype is "fp16"; it must be one of/, () => Model.load(tinyModel, { dtype: any('fp16') })],
    [/the model is string; it must be what Model.load gives/, () => compress(any(tinyModel), { keep: 0.5 })],
    [/the second argument is undefined; it must be options/, () => compress(model, any(undefined))],
    [/the third argument is undefined; it must be options/, () => calibrateSchedule(small, [], any(undefined))],
    [/the model is undefined; it must be what/, () => calibrate(any(undefined))],
    [/compressed already; calibrate the original model/, () => calibrate(small)],
    [/the model is undefined; it must be what/, () => exportModel(any(undefined), 'x')],
    [/the model is string; it must be what/, () => evaluate.perplexity(any('x'), text)],
    [/the reference is undefined; it must be what/, () => evaluate.agreement(model, any(undefined), text)],
    [/samples is undefined; it must be a list/, () => evaluate.summarize(model, any(undefined))],
    [/the target directory is undefined; it must be a string/, () => small.save(any(undefined))],
    [/onProgress is 3; it must be a function/, () => Model.load(tinyModel, { onProgress: any(3) })],
    [/keep is "\.5"; it must be a number/, () => compress(model, { keep: any('.5') })],
    [/calibration is string; it must be a list/, () => compress(model, { keep: 0.5, calibration: any(text) })],
    [/a calibration source must have one of/, () => compress(model, { keep: 0.5, calibration: any([5]) })],
    [/the prompt is undefined; it must be a text/, () => complete(model.generate(any(undefined)))],
    [/maxTokens is "5"; it must be a whole/, () => complete(model.generate('x', { maxTokens: any('5') }))],
    [/stop is 5; it must be a string/, () => complete(model.generate('x', { stop: any(5) }))],
    [
      /recover is null; it must be a number of minutes/,
      () => compress(model, { ...short, recover: any(null) }),
    ],
    [
      /calibration is string; it must be a list/,
      () => compress(model, { ...short, recover: { minutes: 1, calibration: any(text) } }),
    ],
    [/levels is 0\.7; it must be a list/, () => compress(model, { ...short, levels: any(0.7) })],
    [/levels is null; it must be a list/, () => compress(model, { ...short, levels: any(null) })],
    [/levels is a list with "\.7"/, () => compress(model, { ...short, levels: any(['.7']) })],
    [
      /levelWeights is "21"; it must be/,
      () => compress(model, { ...short, levels: [0.4], levelWeights: any('21') }),
    ],
    [/memory is "8GB"; it must be a whole/, () => compress(model, { ...short, memory: any('8GB') })],
    [/state is 5; it must be a string/, () => compress(model, { ...short, state: any(5) })],
    [/state is "a.*b"; it must be a path/, () => calibrate(model, { calibration: ['short'], state: 'a\0b' })],
    [/signal is object; it must be an AbortSignal/, () => compress(model, { ...short, signal: any({}) })],
    [
      /signal is number; it must be/,
      () => evaluate.perplexity(model, text, { seqLen: 64, windows: 1, signal: any(5) }),
    ],
    [/the second argument is null; it must be options/, () => calibrate(model, any(null))],
    [/the second argument is null/, () => Model.load(tinyModel, any(null))],
    [/the model is empty; it must be a path/, () => Model.load('')],
    [/the second argument is 5/, () => small.save('x', any(5))],
    [/the second argument is null/, () => calibration.save('x', any(null))],
    [/the third argument is null/, () => Calibration.load(model, 'x', any(null))],
    [/the third argument is null/, () => exportModel(model, 'x', any(null))],
    [/the third argument is null/, () => complete(model.generate('x', any(null)))],
    [/the argument of chat is null/, async () => model.chat(any(null))],
    [/the second argument is null/, () => complete(model.chat().send('x', any(null)))],
    [/the second argument is null/, () => serve(model, any(null))],
    [/the third argument is null/, () => evaluate.perplexity(model, text, any(null))],
    [/the third argument is null/, () => evaluate.choice(model, [], any(null))],
    [/the third argument is null/, () => evaluate.summarize(model, [], any(null))],
    [/the fourth argument is null/, () => evaluate.agreement(model, model, text, any(null))],
    [/the calibration is number; it must be what calibrate gives/, () => sensitivitySearch(any(5))],
    [/the second argument is null/, () => sensitivitySearch(calibration, any(null))],
    [/windows is "all"; it must be a list/, () => sensitivitySearch(calibration, { windows: any('all') })],
    [/projections is 3; it must be a list/, () => sensitivitySearch(calibration, { projections: any(3) })],
    [/the target directory is "a.*b"; it must be a path/, () => small.save('a\0b')],
    [/the model is "a.*b"; it must be a path/, () => Model.load('a\0b')],
    [/text is undefined; it must be a string/, () => evaluate.perplexity(model, any(undefined))],
    [/the message is undefined; it must be a string/, () => complete(model.chat().send(any(undefined)))],
  ]
  for (const [message, call] of cases) await throwsFlrcError(call, { code: 'E_USAGE', message })
})

mistakes('what onProgress throws is what the call rejects with', async () => {
  const onProgress = () => {
    throw new RangeError('mine')
  }
  const calls = [
    () => calibrate(model, { calibration: [text], samples: 2, seqLen: 64, onProgress }),
    () => compress(model, { keep: 0.5, calibration, onProgress }),
    () => evaluate.perplexity(model, heldout, { seqLen: 64, windows: 2, onProgress }),
    () => small.save(path.join(folder, 'thrown'), { onProgress }),
    () => Model.load(tinyModel, { onProgress }),
  ]
  for (const call of calls) {
    const error = await call().then(
      () => undefined,
      (reason: unknown) => reason,
    )
    assert.instance(error, RangeError)
  }
  assert.not.ok(readdirSync(folder).some((name) => name.includes('thrown')))
})

measuring.after(() => rmSync(folder, { recursive: true }))

for (const tests of [generation, chats, compression, mistakes, measuring]) tests.run()
