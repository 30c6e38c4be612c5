import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { root, runCli, runNode, tinyModel } from './support/child.js'
import { temporaryDirectory } from './support/paths.js'

const folder = temporaryDirectory()
const file = (name: string) => path.join(folder, name)
const makeChoices = path.join(root, 'scripts', 'make-choices.mjs')

function writeLines(name: string, values: readonly unknown[]): void {
  writeFileSync(file(name), values.map((value) => `${JSON.stringify(value)}\n`).join(''))
}

function readLines(name: string): Record<string, unknown>[] {
  const lines = readFileSync(file(name), 'utf8').trimEnd().split('\n')
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

const things = ['apples', 'hens', 'horses', 'ploughs', 'ribbons', 'candles']
writeLines(
  'dialogues.jsonl',
  things.map((thing, index) => ({
    fname: `d${index}`,
    dialogue: `A: What did you buy?\nB: I bought ${thing}.`,
    ...(index === 0 ? { summary1: `B bought ${thing}.`, summary2: thing } : { summary: `B bought ${thing}.` }),
  })),
)

async function json(args: string[]): Promise<Record<string, unknown>> {
  const ended = await runCli([...args, '--json'], { cwd: folder })
  assert.is(ended.code, 0, ended.stderr)
  return JSON.parse(ended.stdout) as Record<string, unknown>
}

async function fails(code: string, exit: number, args: string[]): Promise<string> {
  const ended = await runCli([...args, '--json'], { cwd: folder })
  assert.is(ended.code, exit, ended.stderr)
  const { error } = JSON.parse(ended.stdout) as { error: { code: string; message: string } }
  assert.is(error.code, code)
  return error.message
}

const summarize = ['eval', 'summarize', tinyModel, '--data', 'dialogues.jsonl', '--max-tokens', '6']

test('summarize: the contract’s keys, and texts only where they are asked for', async () => {
  const result = await json([...summarize, '--limit', '3', '--outputs', 'dense.jsonl'])
  const keys = ['rouge1', 'rouge2', 'rougeL', 'meanActiveBudget', 'bytesPerToken', 'samples', 'intervals']
  assert.equal(Object.keys(result), keys)
  assert.is(result.samples, 3)
  assert.is(result.meanActiveBudget, 1)
  const outputs = readLines('dense.jsonl')
  assert.equal(
    outputs.map(({ id }) => id),
    ['d0', 'd1', 'd2'],
  )
  assert.equal(Object.keys(outputs[0] ?? {}), ['id', 'text', 'tokens', 'rouge1', 'rouge2', 'rougeL'])

  const repeated = await json([...summarize, '--limit', '3', '--reference', 'dense.jsonl'])
  assert.equal(Object.keys(repeated), [...keys, 'reference'])
  assert.is((repeated.reference as { rougeL: number }).rougeL, 1)
  assert.equal({ ...repeated, reference: undefined }, { ...result, reference: undefined })

  const plain = await runCli([...summarize, '--limit', '2', '--schedule', 'constant:1'], { cwd: folder })
  assert.match(plain.stdout, /^against +people's summaries\n-+ +-+\nROUGE-1 +\d\.\d{4} \(/)
  assert.ok(plain.stdout.split('\n').every((line) => line.length <= 80))
  assert.is(plain.code, 0, plain.stderr)
  assert.match(plain.stdout, /ROUGE-L[\s\S]*2 samples, mean active budget 1\.000/)
  assert.equal(readdirSync(folder).sort(), ['dense.jsonl', 'dialogues.jsonl'])
})

test('summarize: what cannot be read or written is found before the model runs', async () => {
  writeFileSync(file('mine.jsonl'), 'mine')
  await fails('E_EXISTS', 1, [...summarize, '--outputs', 'mine.jsonl'])
  assert.is(readFileSync(file('mine.jsonl'), 'utf8'), 'mine')
  await fails('E_NOT_FOUND', 1, [...summarize, '--outputs', 'nowhere/out.jsonl'])
  await fails('E_NOT_FOUND', 1, [...summarize, '--reference', 'nowhere.jsonl'])
  assert.match(await fails('E_USAGE', 2, [...summarize, '--reference', 'mine.jsonl']), /mine\.jsonl, line 1: /)
  writeLines('other.jsonl', [{ id: 'd0', text: 'x' }])
  assert.match(await fails('E_USAGE', 2, [...summarize, '--reference', 'other.jsonl']), /no text for sample d1/)
  writeLines('bad.jsonl', [{ dialogue: 'x', summary: 's' }, { summary: 's' }])
  const bad = ['eval', 'summarize', tinyModel, '--data', 'bad.jsonl']
  assert.match(await fails('E_USAGE', 2, bad), /bad\.jsonl, line 2: .*; give each line/)
  await fails('E_USAGE', 2, [...summarize, '--schedule', 'half'])
  await fails('E_USAGE', 2, [...summarize, '--limit', '0'])
  await fails('E_USAGE', 2, ['eval', 'summarize', tinyModel])
  assert.not.ok(existsSync(file('nowhere')))
})

test('agreement: the contract’s keys, by step, of dialogues and of a text', async () => {
  const agreement = ['eval', 'agreement', tinyModel, '--reference', tinyModel]
  const dialogues = [...agreement, '--data', 'dialogues.jsonl', '--limit', '3', '--max-tokens', '5']
  const result = await json(dialogues)
  const keys = ['agreement', 'meanKl', 'byStep', 'meanActiveBudget', 'tokens', 'samples', 'intervals']
  assert.equal(Object.keys(result), keys)
  assert.is(result.agreement, 1)
  const steps = result.byStep as Record<string, number>[]
  assert.equal(steps[0], { step: 0, agreement: 1, kl: 0, activeBudget: 1, samples: 3 })
  const text = [...agreement, '--data', path.join(tinyModel, 'heldout.txt'), '--limit', '2']
  const rounded = await json([...text, '--max-tokens', '6', '--dtype', 'int4'])
  assert.is(rounded.samples, 2)
  assert.ok((rounded.meanKl as number) > 0, 'the reference is not held in int4 too')
  const plain = await runCli(dialogues, { cwd: folder })
  assert.match(
    plain.stdout,
    /agreement 100\.0% .*, mean KL 0\.0000 .*\nover \d+ tokens of 3 samples, mean active budget 1\.000/,
  )

  await fails('E_USAGE', 2, ['eval', 'agreement', tinyModel, '--data', 'dialogues.jsonl'])
  await fails('E_USAGE', 2, [...dialogues, '--max-tokens', '0'])
  await fails('E_USAGE', 2, [...dialogues, '--schedule', 'half'])
  await fails('E_NOT_FOUND', 1, [...agreement, '--data', 'nowhere.jsonl'])
  const stranger = ['eval', 'agreement', tinyModel, '--reference', 'nowhere', '--data', 'dialogues.jsonl']
  await fails('E_NOT_FOUND', 1, stranger)
})

test('choice: a set made of dialogues, the same for the same seed, and its accuracies', async () => {
  const make = (...args: string[]) => runNode([makeChoices, ...args], { cwd: folder })
  const made = await make('dialogues.jsonl', 'choices.jsonl')
  assert.is(made.code, 0, made.stderr)
  const samples = readLines('choices.jsonl') as { context: string; choices: string[]; answer: number }[]
  assert.is(samples.length, things.length)
  for (const [index, { context, choices, answer }] of samples.entries()) {
    assert.is(context, `A: What did you buy?\nB: I bought ${things[index]}.\n\nSummary:`)
    assert.is(choices[answer], ` B bought ${things[index]}.`)
    assert.is(new Set(choices).size, 4)
    assert.ok(choices.every((choice) => things.some((thing) => choice === ` B bought ${thing}.`)))
  }
  await make('dialogues.jsonl', 'same.jsonl', '--seed', '0')
  await make('dialogues.jsonl', 'other-seed.jsonl', '--seed', '1')
  assert.equal(readLines('same.jsonl'), samples)
  assert.not.equal(readLines('other-seed.jsonl'), samples)
  assert.is((await make('dialogues.jsonl', 'same.jsonl')).code, 1, 'no file is written over')
  assert.is((await make('dialogues.jsonl', 'x.jsonl', '--seed', 'one')).code, 2)
  assert.is((await make('dense.jsonl', 'x.jsonl')).code, 2)

  const choice = ['eval', 'choice', tinyModel, '--data', 'choices.jsonl']
  const result = await json([...choice, '--limit', '4', '--level', '0'])
  assert.equal(Object.keys(result), ['accuracy', 'accuracyNormalised', 'samples', 'intervals'])
  assert.is(result.samples, 4)
  const plain = await runCli(choice, { cwd: folder })
  assert.match(plain.stdout, /^accuracy \d+\.\d% .* of 6 samples\n$/)
  await fails('E_USAGE', 2, [...choice, '--level', '1'])
  await fails('E_USAGE', 2, ['eval', 'choice', tinyModel, '--data', 'dialogues.jsonl'])
  await fails('E_NOT_FOUND', 1, ['eval', 'choice', tinyModel, '--data', 'nowhere.jsonl'])
})

test.run()
