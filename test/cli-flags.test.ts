import { readFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { CompressionPlan } from '#lib/checkpoint/plan.js'
import { complete, type GenerateOptions, Model } from '#lib/index.js'
import { runCli, tinyModel } from './support/child.js'
import { temporaryDirectory } from './support/paths.js'

const folder = temporaryDirectory()

async function run(args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runCli(args, { cwd: folder })
  assert.is(code, 0, stderr)
  return stdout
}

test('generate samples as its flags say', async () => {
  const model = await Model.load(tinyModel)
  const prompt = 'Once upon a time there was a king who'
  const options = {
    ...{ temperature: 1.5, topK: 12, topP: 0.8, minP: 0.1, seed: 7 },
    ...{ repeatPenalty: 1.1, frequencyPenalty: 0.3, presencePenalty: 0.4 },
  }
  const tokensOf = async (more: GenerateOptions) =>
    (await complete(model.generate(prompt, { maxTokens: 48, ...more }))).tokenIds
  const expected = await tokensOf(options)
  for (const name of Object.keys(options)) {
    assert.not.equal(await tokensOf({ ...options, [name]: undefined }), expected, `${name} changes something`)
  }
  const flags = Object.entries(options).flatMap(([name, value]) => [
    `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    String(value),
  ])
  const said = await run(['generate', tinyModel, '-p', prompt, '--max-tokens', '48', '--json', ...flags])
  assert.equal(JSON.parse(said).tokenIds, expected)
  model.dispose()
})

test('compress cuts as its flags say', async () => {
  const calibration = ['--calibration', path.join(tinyModel, 'calibration.txt'), '--samples', '2']
  const planOf = async (...more: string[]) => {
    const place = ['compress', tinyModel, '-o', 'out', '--overwrite', '--keep', '.6']
    await run([...place, ...calibration, '--seq-len', '64', ...more])
    const plan = JSON.parse(readFileSync(path.join(folder, 'out', 'flrc-plan.json'), 'utf8')) as CompressionPlan
    const { labels, seed, score, power, rankFloor, rankMultiple, dense, levelWeights } = plan.options
    const { storage } = plan
    return { storage, labels, seed, score, power, rankFloor, rankMultiple, dense, levelWeights }
  }
  assert.equal(await planOf(), {
    ...{ storage: 'pivoted', labels: 'model', seed: 0, score: 'fisher', levelWeights: undefined },
    ...{ power: 1, rankFloor: 1, rankMultiple: 1, dense: true },
  })
  const flags = [
    ...[
      '--method',
      'fisher',
      '--score',
      'taylor',
      '--power',
      '.5',
      '--levels',
      '.6,.4',
      '--level-weights',
      '2,1',
    ],
    ...['--rank-floor', '2', '--rank-multiple', '4', '--no-dense', '--storage', 'plain', '--labels', 'data'],
    ...['--seed', '3'],
  ]
  assert.equal(await planOf(...flags), {
    ...{ storage: 'plain', labels: 'data', seed: 3, score: 'taylor', levelWeights: [2, 1] },
    ...{ power: 0.5, rankFloor: 2, rankMultiple: 4, dense: false },
  })
})

test.run()
