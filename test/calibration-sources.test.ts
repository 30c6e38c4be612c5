import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { calibrationWindows, shareOut } from '#lib/calibration/windows.js'
import { parseDialogues, summaryPrompt } from '#lib/data/dialogues.js'
import { type CalibrationText, calibrate, compress, Model } from '#lib/index.js'
import { tinyModel } from './support/child.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const text = readFileSync(path.join(tinyModel, 'calibration.txt'), 'utf8')
const heldout = readFileSync(path.join(tinyModel, 'heldout.txt'), 'utf8')
const model = await Model.load(tinyModel)
const { tokenizer } = model

const dialogues = [
  {
    dialogue: '#A#: Is the ship in the harbour?\n#B#: It is, and we sail at dawn.',
    summary: 'They sail at dawn.',
  },
  {
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hello' },
    ],
  },
  {
    dialogue: '#A#: Good night, my lord.\n#B#: Good night.',
    summary1: 'A says good night.',
    summary2: 'Night.',
  },
]
const jsonl = dialogues.map((line) => JSON.stringify(line)).join('\n')

const windowsOf = async (calibration: CalibrationText[] | undefined, options = {}) =>
  calibrationWindows(model, { calibration, samples: 4, seqLen: 32, ...options })
const ids = (windows: readonly Int32Array[]) => windows.flatMap((window) => Array.from(window))

/** A model with the tiny one's weights and tokenizer, and another chat template. */
const withTemplate = (chatTemplate: string | undefined) =>
  Object.assign(Object.create(model) as Model, {
    source: { ...model.source, tokenizer: () => ({ ...model.source.tokenizer(), chatTemplate }) },
    writeSelfText: model.writeSelfText.bind(model),
  })

/** The first tokens of a text from each of these lines on. */
const beginnings = (lines: readonly string[], starts: readonly number[]) =>
  starts.flatMap((start) => Array.from(tokenizer.encode(lines.slice(start).join('')).slice(0, 32)))

test('windows of a text are spread over it, and begin with lines', async () => {
  const lines = Array.from(
    { length: 400 },
    (_, index) => `Line ${index} of a story about the sea and a ship.\n`,
  )
  const length = lines.join('').length
  const lineAt = (share: number) => {
    const before = (line: number) => lines.slice(0, line).join('').length
    return lines.findIndex((_, line) => before(line) >= Math.floor(share * length))
  }
  const { windows, heldOut } = await windowsOf([lines.join('')], { samples: 2, heldOut: 1 })
  const end = lineAt(8 / 9)
  const middle = lineAt(lines.slice(0, end).join('').length / 2 / length)
  assert.equal(ids(windows), beginnings(lines, [0, middle]))
  assert.equal(ids(heldOut), beginnings(lines, [end]), 'held out from behind them')
})

test('of a text with few lines or few tokens they are windows of its tokens', async () => {
  const tokens = Array.from(tokenizer.encode(text.slice(0, 2000)))
  const all = Math.floor(tokens.length / 32)
  for (const samples of [all, all + 5]) {
    const every = await windowsOf([text.slice(0, 2000)], { samples })
    assert.equal(ids(every.windows), tokens.slice(0, all * 32), 'all, one after another')
  }
  const oneLine = 'The sea and the ship. '.repeat(300)
  const end = oneLine.indexOf(' ', Math.floor((oneLine.length * 8) / 9) - 1) + 1
  const middle = oneLine.indexOf(' ', Math.floor(end / 2) - 1) + 1
  const { windows, heldOut } = await windowsOf([oneLine], { samples: 2, heldOut: 1 })
  const from = (start: number) => Array.from(tokenizer.encode(oneLine.slice(start)).slice(0, 32))
  assert.equal(ids(windows), [...from(0), ...from(middle)], 'of one line, from words on')
  assert.equal(ids(heldOut), from(end))
  const { windows: glued } = await windowsOf(['東'.repeat(2000)], { samples: 2 })
  assert.equal(
    glued.map(({ length }) => length),
    [32, 32],
    'and of one word',
  )
})

test('weights share the samples', () => {
  assert.equal(shareOut(10, [1, 3]), [3, 7])
  assert.equal(shareOut(4, [1, 1, 100]), [1, 1, 2])
  assert.equal(shareOut(1, [1, 2]), [0, 1])
  assert.equal(shareOut(3, []), [])
})

test('sources of every kind, with their weights, in their order', async () => {
  const given: CalibrationText[] = [
    { text, weight: 3, name: 'folder/plain.txt' },
    { self: true, weight: 2 },
    Int32Array.from([1, 2, 3]),
    { dialogues: jsonl, name: 'talk.jsonl' },
    { text: heldout, weight: 2 },
  ]
  const { windows, sources, sha256 } = await windowsOf(given, { samples: 9 })
  assert.is(windows.length, 9)
  assert.equal(
    sources.map(({ kind, name, weight, windows: count }) => [kind, name, weight, count]),
    [
      ['windows', undefined, undefined, 1],
      ['text', 'plain.txt', 3, 3],
      ['self', undefined, 2, 2],
      ['dialogues', 'talk.jsonl', 1, 1],
      ['text', undefined, 2, 2],
    ],
  )
  assert.equal(ids(windows.slice(0, 1)), [1, 2, 3])
  assert.equal(ids(windows.slice(1, 4)), ids((await windowsOf([text], { samples: 3 })).windows))
  assert.equal(ids(windows.slice(4, 6)), ids((await windowsOf(undefined, { samples: 2 })).windows))
  assert.equal(ids(windows.slice(7)), ids((await windowsOf([heldout], { samples: 2 })).windows))
  assert.is(new Set([sha256, ...sources.map((source) => source.sha256)]).size, 6)
  const alone = await windowsOf([text])
  assert.is(alone.sha256, alone.sources[0]?.sha256, 'of one source its own')
})

test('dialogues are conversations in the chat template, spread over the file', async () => {
  const { windows, sources } = await windowsOf([{ dialogues: jsonl }], { samples: 64, seqLen: 16 })
  const summarised = (dialogue: string, summary: string) =>
    `<|im_start|>user\n${summaryPrompt(dialogue)}<|im_end|>\n<|im_start|>assistant\n${summary}<|im_end|>\n`
  const expected =
    summarised(dialogues[0]?.dialogue ?? '', 'They sail at dawn.') +
    summarised(dialogues[2]?.dialogue ?? '', 'A says good night.') +
    '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n'
  const tokens = Array.from(tokenizer.encode(expected, { addSpecial: false }))
  assert.ok(tokens.includes(tokenizer.idOf('<|im_start|>') ?? -1))
  assert.equal(ids(windows), tokens.slice(0, Math.floor(tokens.length / 16) * 16))
  assert.is(sources[0]?.windows, windows.length, 'fewer than the share, where there are no more')
  const samples = await windowsOf([{ dialogues: parseDialogues(jsonl, 'x') }], { samples: 64, seqLen: 16 })
  assert.equal(samples.windows, windows)
})

test('the first dialogues that are read lie everywhere in the file', async () => {
  const many = Array.from({ length: 1000 }, (_, index) => ({
    messages: [{ role: 'user', content: `Number ${index}` }],
  }))
  const { windows } = await windowsOf([{ dialogues: many }], { samples: 10, seqLen: 16 })
  const seen = tokenizer.decode(ids(windows)).matchAll(/Number (\d+)\n/g)
  const numbers = Array.from(seen, ([, number]) => Number(number)).sort((a, b) => a - b)
  assert.ok(numbers.length > 5 && new Set(numbers).size === numbers.length, `${numbers}`)
  const gaps = numbers.slice(1).map((number, index) => number - (numbers[index] as number))
  assert.ok(Math.max(...gaps, numbers[0] as number) < (2.1 * 1000) / numbers.length, `${numbers}`)
})

test('dialogues beyond what a template can render in one go are rendered in parts', async () => {
  const many = Array.from({ length: 150 }, (_, index) => ({
    messages: [{ role: 'user', content: `Number ${index}` }],
  }))
  const { windows } = await windowsOf([{ dialogues: many }], { samples: 1000, seqLen: 8 })
  const all = tokenizer.decode(ids(windows))
  assert.ok(all.includes('Number 0\n') && all.includes('Number 64\n') && all.includes('Number 148\n'))
})

test('what is wrong with dialogues is told with the file and the line', async () => {
  const good = JSON.stringify(dialogues[0])
  const refused = (content: string, message: RegExp) =>
    throwsFlrcError(() => windowsOf([{ dialogues: content, name: 'a/talk.jsonl' }]), {
      code: 'E_USAGE',
      file: 'a/talk.jsonl',
      message,
    })
  await refused(`${good}\n\n{"dialogue": `, /line 3: not valid JSON/)
  await refused(`${good}\n{"summary": "What?"}`, /line 2/)
  await refused(`${good}\n{"dialogue": 7, "summary": "Seven."}`, /line 2/)
  await refused(`${good}\n{"messages": [{"role": "user"}]}`, /line 2/)
  await refused('', /no lines/)
  await refused(`${good}\n{"id": "d7", "dialogue": "#A#: Well?"}`, /sample 2 \(d7\) has no summary/)
  await throwsFlrcError(() => windowsOf([{ dialogues: [] }]), { code: 'E_CALIBRATION', message: /0 tokens/ })
})

test('sources that cannot be used', async () => {
  const refused = (source: unknown, code: string) =>
    throwsFlrcError(() => windowsOf([source as CalibrationText]), { code })
  await refused({ text, weight: 0 }, 'E_USAGE')
  await refused({ self: true, weight: Number.NaN }, 'E_USAGE')
  await refused({ self: false }, 'E_USAGE')
  await refused({ text, self: true }, 'E_USAGE')
  await refused({ text: 7 }, 'E_USAGE')
  await refused({}, 'E_USAGE')
  await refused('short', 'E_CALIBRATION')
  await refused(Int32Array.from([1]), 'E_CALIBRATION')
  await refused(Int32Array.from([1, model.config.vocabSize]), 'E_CALIBRATION')
  await throwsFlrcError(() => windowsOf([]), { code: 'E_CALIBRATION' })
  await throwsFlrcError(() => windowsOf(undefined, { seqLen: 1024 }), { code: 'E_CONTEXT' })
})

test('without a chat template dialogues are refused, and self writes plain text alone', async () => {
  const plain = withTemplate(undefined)
  const from = (calibration: CalibrationText[]) =>
    calibrationWindows(plain, { calibration, samples: 4, seqLen: 32 })
  await throwsFlrcError(() => from([{ dialogues: jsonl }]), {
    code: 'E_CHAT_TEMPLATE',
    file: tinyModel,
    message: /plain text/,
  })
  const { windows, sources } = await from([{ self: true }])
  assert.is(windows.length, 4)
  assert.is(sources[0]?.sampling?.plainWindows, 4)
  assert.is(sources[0]?.sampling?.chatWindows, 0)
})

test('self: half plain text, half conversations as the template has them', async () => {
  const { windows, sources } = await windowsOf(undefined, { samples: 8, seqLen: 256 })
  assert.equal(sources[0]?.sampling, {
    ...{ seed: 0, temperature: 1, topP: 0.95 },
    ...{ plainWindows: 4, chatWindows: 4 },
  })
  assert.ok(windows.every((window) => window.length === 256))
  const opening = Array.from(tokenizer.encode('<|im_start|>user\n', { addSpecial: false }))
  const [start, end] = ['<|im_start|>', '<|im_end|>'].map((token) => tokenizer.idOf(token))
  for (const [index, window] of windows.entries()) {
    if (index % 2 === 0) {
      assert.not.ok(tokenizer.specialTokenIds.has(window[0] ?? 0))
      assert.not.ok(window.includes(start ?? -1), 'plain text has no turns')
      continue
    }
    assert.equal(Array.from(window.slice(0, opening.length)), opening)
    const said = tokenizer.decode(window, { skipSpecial: false })
    assert.ok(said.includes('<|im_end|>\n<|im_start|>assistant\n'), 'every window shows an answer')
    const turns = said.split('<|im_start|>').slice(1)
    for (const [turn, message] of turns.entries()) {
      assert.ok(message.startsWith(turn % 2 === 0 ? 'user\n' : 'assistant\n'.slice(0, message.length)), said)
      if (turn + 1 < turns.length) assert.ok(message.endsWith('<|im_end|>\n'), said)
    }
  }
  const chats = windows.filter((_, index) => index % 2 === 1)
  assert.ok(
    chats.some((window) => window.includes(end ?? -1)),
    'some message ends',
  )
})

test('self: plain text begins with the begin token where the tokenizer adds one', async () => {
  const directory = path.join(temporaryDirectory(), 'tiny')
  cpSync(tinyModel, directory, { recursive: true })
  const file = path.join(directory, 'tokenizer_config.json')
  const config = JSON.parse(readFileSync(file, 'utf8')) as object
  const llama = { tokenizer_class: 'LlamaTokenizer', add_bos_token: true }
  writeFileSync(file, JSON.stringify({ ...config, ...llama, chat_template: undefined }))
  const begins = await Model.load(directory)
  assert.ok(begins.tokenizer.addsBos)
  const { windows } = await calibrationWindows(begins, { samples: 3, seqLen: 32 })
  assert.equal(
    windows.map((window) => window[0]),
    new Array(3).fill(begins.tokenizer.bosTokenId),
  )
  assert.is(new Set(windows.map((window) => window.join())).size, 3)
  begins.dispose()
})

test('self: the same at any number of threads, another with another seed', async () => {
  const [one, three] = [1, 3].map((threads) => Model.load(tinyModel, { threads }))
  const options = { samples: 20, seqLen: 64 }
  const first = await calibrationWindows(await (one as Promise<Model>), options)
  const same = await calibrationWindows(await (three as Promise<Model>), options)
  assert.equal(first, same)
  const narrow = await calibrationWindows(model, { ...options, memory: 1 })
  assert.equal(first, narrow, 'one at a time')
  const seeded = await calibrationWindows(model, { ...options, seed: 1 })
  assert.is.not(seeded.sha256, first.sha256)
  assert.is(new Set(first.windows.map((window) => window.join())).size, 20)
})

test('self: a template that changes its messages is refused, another is followed', async () => {
  const from = (template: string) => calibrationWindows(withTemplate(template), { samples: 2, seqLen: 64 })
  const each = (inner: string) => `{% for m in messages %}${inner}{% endfor %}`
  await throwsFlrcError(() => from(each('[{{ m.content | upper }}]')), {
    code: 'E_CALIBRATION',
    file: tinyModel,
  })
  await throwsFlrcError(() => from(each('{{ m.content }}{{ m.content }}')), { code: 'E_CALIBRATION' })
  const followed = await from(`King.${each('<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>')}`)
  assert.ok(
    tokenizer.decode(followed.windows[1] ?? [], { skipSpecial: false }).startsWith('King.<|im_start|>user: '),
  )
})

test('self is what compress calibrates on by default, and the plan tells how to make it again', async () => {
  const options = { samples: 4, seqLen: 64, keep: 0.8, method: 'uniform' } as const
  const small = await compress(model, { ...options, seed: 5 })
  const { windows, sha256 } = await calibrationWindows(model, { samples: 4, seqLen: 64, seed: 5 })
  const plan = small.plan?.calibration
  assert.is(plan?.sha256, sha256)
  assert.is(plan?.windows, 4)
  assert.is(plan?.tokens, 256)
  assert.equal(plan?.sources, [
    {
      ...{ kind: 'self', sha256, weight: 1, windows: 4 },
      sampling: { seed: 5, temperature: 1, topP: 0.95, plainWindows: 2, chatWindows: 2 },
    },
  ])
  const again = await compress(model, { ...options, seed: 5, calibration: windows })
  assert.equal(again.plan?.scores, small.plan?.scores, 'the windows themselves give the same')
  small.dispose()
  again.dispose()
})

test('writing tells how far it is, and an abort ends it at once', async () => {
  const stages = new Set<string>()
  await calibrationWindows(model, {
    ...{ samples: 2, seqLen: 64 },
    onProgress: ({ stage, done, total }) => {
      stages.add(stage)
      assert.ok(done <= total && total === 128)
    },
  })
  assert.equal([...stages], ['writing calibration text'])
  const controller = new AbortController()
  const { signal } = controller
  const pending = calibrate(model, { samples: 4096, signal })
  await sleep(300)
  const begin = performance.now()
  controller.abort()
  await throwsFlrcError(() => pending, { code: 'E_ABORTED' })
  assert.ok(performance.now() - begin < 100, 'within 100 ms')
  await throwsFlrcError(() => calibrate(model, { signal: AbortSignal.abort() }), { code: 'E_ABORTED' })
})

test.after(() => model.dispose())

test.run()
