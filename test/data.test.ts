import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readTextFile } from '#lib/cli/files.js'
import { parseChoices } from '#lib/data/choices.js'
import { parseDialogues, summaryPrompt } from '#lib/data/dialogues.js'
import { parseOutputs } from '#lib/data/outputs.js'
import { throwsFlrcError } from './support/flrc-error.js'
import { temporaryDirectory } from './support/paths.js'

const lines = (...values: unknown[]) => values.map((value) => JSON.stringify(value)).join('\n')

test('dialogues with one summary or several, and chats', () => {
  const messages = [{ role: 'user', content: 'Hello' }]
  const text = lines(
    { fname: 'a', dialogue: 'x', summary: 's', topic: 'ignored' },
    { id: 7, dialogue: 'y', summary1: 's1', summary2: 's2', summary3: 's3' },
    { messages },
    { dialogue: 'z' },
  )
  const expected = [
    { id: 'a', dialogue: 'x', summaries: ['s'] },
    { id: '7', dialogue: 'y', summaries: ['s1', 's2', 's3'] },
    { messages },
    { dialogue: 'z' },
  ]
  assert.equal(parseDialogues(text, 'd.jsonl'), expected)
  assert.equal(parseDialogues(`\ufeff${text.replaceAll('\n', '\r\n\r\n')}\n`, 'd.jsonl'), expected)
})

test('what some editors put before a text is none of it', async () => {
  const file = path.join(temporaryDirectory(), 'text.txt')
  writeFileSync(file, '\ufeffA text,\r\n\ufeffand more.')
  assert.is(await readTextFile(file), 'A text,\r\n\ufeffand more.')
})

test('the prompt is the one that results are published with', () => {
  assert.is(summaryPrompt('A: Hi.'), 'Summarize the following dialogue in one or two sentences.\n\nA: Hi.')
})

test('lines that are no sample name the file, the line and what belongs there', async () => {
  const good = lines({ dialogue: 'x', summary: 's' })
  for (const [bad, problem] of [
    ['{', /not valid JSON/],
    ['1', /expected Object/],
    ['[1]', /neither dialogue nor messages/],
    ['{}', /neither dialogue nor messages/],
    [lines({ dialogue: 3, summary: 's' }), /dialogue/],
    [lines({ dialogue: '' }), /dialogue/],
    [lines({ messages: [] }), /messages/],
    [lines({ messages: [{ role: 'user' }] }), /content/],
  ] as const) {
    await throwsFlrcError(() => parseDialogues(`${good}\n\n${bad}`, 'd.jsonl'), {
      code: 'E_USAGE',
      file: 'd.jsonl',
      message: new RegExp(`line 3: .*${problem.source}.*; give each line`),
    })
  }
  await throwsFlrcError(() => parseDialogues('\n', 'd.jsonl'), { code: 'E_USAGE', message: /no lines/ })
})

test('choices', async () => {
  const sample = { context: 'The sky is', choices: [' blue', ' green'], answer: 1 }
  assert.equal(parseChoices(lines(sample, { ...sample, id: 'b' }), 'c.jsonl'), [sample, { ...sample, id: 'b' }])
  for (const wrong of [
    { answer: 2 },
    { answer: -1 },
    { answer: 0.5 },
    { answer: '0' },
    { choices: [' blue'] },
    { choices: [' blue', ''] },
    { context: null },
  ]) {
    await throwsFlrcError(() => parseChoices(lines(sample, { ...sample, ...wrong }), 'c.jsonl'), {
      code: 'E_USAGE',
      file: 'c.jsonl',
      message: /line 2: .*; give each line/,
    })
  }
})

test('outputs', async () => {
  const output = { id: 'a', text: '' }
  assert.equal(parseOutputs(lines({ ...output, rouge1: 0.5 }), 'o.jsonl'), [output])
  for (const text of [lines(output, output), lines({ id: 1, text: 'x' }), lines({ id: 'x' })]) {
    await throwsFlrcError(() => parseOutputs(text, 'o.jsonl'), { code: 'E_USAGE', file: 'o.jsonl' })
  }
})

test.run()
