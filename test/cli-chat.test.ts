import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { converse, type Scene, type Turn } from '#lib/cli/conversation.js'
import { complete, type GenerateOptions } from '#lib/generate.js'
import { Model } from '#lib/public-model.js'
import { root, runCli, tinyModel } from './support/child.js'
import { rejects } from './support/flrc-error.js'

const model = await Model.load(tinyModel)
const ctrlC = '\x03'
const ctrlD = '\x04'

const piped = suite('chat with a piped stdin')

piped('each line is a message, and the turns are those of the API', async () => {
  const args = ['chat', tinyModel, '--max-tokens', '8', '--system', 'Speak in verse.', '--seed', '3']
  const input = 'Continue this text.\n\nAnd more.'
  const [plain, json] = await Promise.all([runCli(args, { input }), runCli([...args, '--json'], { input })])
  assert.is(plain.code, 0, plain.stderr)
  const chat = model.chat({ messages: [{ role: 'system', content: 'Speak in verse.' }] })
  const settings = { maxTokens: 8, temperature: 0.7, minP: 0.05, seed: 3 }
  const answers: string[] = []
  for (const message of ['Continue this text.', 'And more.']) {
    answers.push((await complete(chat.send(message, settings))).text)
  }
  assert.is(plain.stdout, `${answers.join('\n')}\n`, 'stdout is the answers alone')
  assert.match(plain.stderr, /^2 answers, 16 tokens, mean active budget 1\.000$/m)
  const { turns } = JSON.parse(json.stdout) as { turns: Turn[] }
  assert.equal(
    turns.map(({ prompt, text, finishReason }) => [prompt, text, finishReason]),
    ['Continue this text.', 'And more.'].map((prompt, index) => [prompt, answers[index], 'length']),
  )
})

piped('no message is no answer, and a bad option is found before the model is loaded', async () => {
  const none = await runCli(['chat', tinyModel, '--json'], { input: '' })
  assert.equal([none.code, JSON.parse(none.stdout)], [0, { turns: [] }])
  const wrong = await runCli(['chat', 'nowhere', '--schedule', 'half'], { input: 'x' })
  assert.is(wrong.code, 2)
})

piped('a message that does not fit the context alone is E_CONTEXT', async () => {
  const ended = await runCli(['chat', tinyModel], { input: 'word '.repeat(600) })
  assert.is(ended.code, 1)
  assert.match(ended.stderr, /flrc: E_CONTEXT: more than 512 prompt tokens/)
})

piped('an interrupt ends it while it waits', async () => {
  const child = spawn(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), 'chat', tinyModel])
  child.stdin.write('Continue this text.\n')
  await once(child.stdout, 'data')
  await setTimeout(500)
  const begin = performance.now()
  child.kill('SIGINT')
  const [code] = (await once(child, 'close')) as [number]
  assert.is(code, 130)
  assert.ok(performance.now() - begin < 2000)
})

const typed = suite('chat in a terminal')

interface Played extends Omit<Scene, 'input' | 'terminal' | 'signal'> {
  keys: PassThrough
  said: string[]
  notes: string[]
  interrupts: number
  run: (settings?: GenerateOptions) => Promise<Turn[]>
}

/** A conversation whose keys the test types. `answered` is called with the answers so far after each. */
function play(answered: (played: Played) => void, onPiece?: (played: Played) => void): Played {
  const interrupt = new AbortController()
  const played: Played = {
    keys: new PassThrough(),
    said: [''],
    notes: [],
    interrupts: 0,
    note: (text) => played.notes.push(text),
    interrupt: () => {
      played.interrupts++
      interrupt.abort()
    },
    run: (settings = {}) =>
      converse(
        model,
        [],
        { maxTokens: 12, ...settings },
        {
          input: played.keys,
          terminal: new PassThrough().resume(),
          onPiece: ({ text }) => {
            played.said[played.said.length - 1] += text
            onPiece?.(played)
          },
          onAnswered: () => {
            played.said.push('')
            answered(played)
          },
          note: played.note,
          interrupt: played.interrupt,
          signal: interrupt.signal,
        },
      ),
  }
  return played
}

typed('Ctrl-C ends an answer, and the conversation goes on', async () => {
  let cut = false
  const played = play(
    ({ said, keys }) => keys.write(said.length === 2 ? 'And more.\r' : ctrlD),
    ({ keys }) => {
      if (!cut) keys.write(ctrlC)
      cut = true
    },
  )
  played.keys.write('Continue this text.\r')
  const turns = await played.run({ maxTokens: 300 })
  assert.equal(
    turns.map(({ prompt }) => prompt),
    ['And more.'],
    'answered whole',
  )
  assert.is(played.interrupts, 0)
  assert.ok((played.said[0]?.length ?? 0) > 0)
  const whole = await complete(model.chat().send('Continue this text.', { maxTokens: 300 }))
  assert.ok((played.said[0]?.length ?? 0) < whole.text.length)
})

typed('Ctrl-C outside an answer, and a second one in it, end the program', async () => {
  const waiting = play(({ keys }) => keys.write(ctrlC))
  waiting.keys.write('Continue this text.\r')
  assert.is((await waiting.run()).length, 1)
  assert.is(waiting.interrupts, 1)
  const hurried = play(
    () => undefined,
    ({ keys, interrupts }) => interrupts === 0 && keys.write(ctrlC + ctrlC),
  )
  hurried.keys.write('Continue this text.\r')
  await rejects(hurried.run({ maxTokens: 300 }), 'E_ABORTED')
  assert.is(hurried.interrupts, 1)
})

typed('/clear begins anew, /exit ends, and neither is said to the model', async () => {
  const played = play(({ said, keys }) =>
    keys.write(said.length === 2 ? '/clear\rContinue this text.\r' : '/exit\r'),
  )
  played.keys.write('Continue this text.\r')
  const [first, second] = await played.run()
  assert.ok(first && second)
  assert.equal([second.tokenIds, second.promptTokens], [first.tokenIds, first.promptTokens])
})

typed('what no longer fits the context is forgotten, the oldest turn first', async () => {
  const played = play(({ said, keys }) => keys.write(said.length < 5 ? 'And more.\r' : ctrlD))
  played.keys.write('Continue this text.\r')
  const turns = await played.run({ maxTokens: 200, temperature: 1 })
  assert.is(turns.length, 4)
  assert.ok(played.notes.some((note) => /the oldest turn is forgotten/.test(note)))
  assert.ok(turns.every(({ promptTokens }) => promptTokens + 200 <= model.config.contextLength))
})

typed('a message that does not fit is noted, and the next is answered', async () => {
  const played = play(({ said, keys }) => keys.write(said.length === 2 ? 'Continue this text.\r' : ctrlD))
  played.keys.write(`${'word '.repeat(600)}\r`)
  assert.equal(
    (await played.run()).map(({ prompt }) => prompt),
    ['Continue this text.'],
  )
  assert.match(played.notes[0] ?? '', /no room in the context of 512/)
})

typed('a message that does not fit even alone takes nothing from the conversation', async () => {
  const long = `${'word '.repeat(600)}\r`
  const lines = ['And more.\r', long, 'And then?\r', ctrlD]
  const played = play(({ keys }) => keys.write(lines.shift()))
  played.keys.write('Continue this text.\r')
  const turns = await played.run()
  const chat = model.chat()
  for (const [index, said] of ['Continue this text.', 'And more.', 'And then?'].entries()) {
    const { text, promptTokens } = await complete(chat.send(said, { maxTokens: 12 }))
    assert.equal([turns[index]?.text, turns[index]?.promptTokens], [text, promptTokens])
  }
  assert.is(played.notes.length, 1)
})

for (const tests of [piped, typed]) tests.run()
