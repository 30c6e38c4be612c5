/**
 * What self-speculation gains: `npm run bench -- speculation [MODEL] [--text FILE]`.
 *
 * For every lower level of an FLRC checkpoint (without MODEL the embedded one, compressed to several levels first) and
 * several numbers of drafts: acceptance, tokens a verification, what a draft and a further column of level 0's pass
 * cost in plain steps, the speed that the break-even formula promises of them and the one measured, all against plain
 * steps of the same prompts, which take turns with them. Then the same prompts through `generate` with and without
 * `speculate`, whose policy chooses the number of drafts. Prompts are cut from FILE (the embedded model's held-out
 * text) at even distances; decoding is greedy. Speeds are ratios of whole times, with the range over the prompts.
 */
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { complete, compress, Model } from 'flrc'
import { packageRoot } from '#lib/binding.js'
import { speedUp } from '#lib/generate/speed-up.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    text: { type: 'string' },
    prompts: { type: 'string', default: '6' },
    'prompt-tokens': { type: 'string', default: '64' },
    tokens: { type: 'string', default: '96' },
    drafts: { type: 'string', multiple: true, default: ['1', '2', '4', '8'] },
    json: { type: 'string' },
  },
})

const tiny = path.join(packageRoot, 'models', 'tiny')
const tokens = Number(values.tokens)
const draftCounts = values.drafts.map(Number)

async function open(): Promise<Model> {
  const [source] = positionals
  if (source !== undefined) return Model.load(source)
  const dense = await Model.load(tiny)
  const calibration = [await readFile(path.join(tiny, 'calibration.txt'), 'utf8')]
  return compress(dense, { keep: 0.9, levels: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], calibration })
}

function promptsOf(ids: readonly number[], count: number, length: number): number[][] {
  const distance = Math.floor((ids.length - length) / count)
  return Array.from({ length: count }, (_, i) => ids.slice(i * distance, i * distance + length))
}

const model = await open()
const text = await readFile(values.text ?? path.join(tiny, 'heldout.txt'), 'utf8')
const prompts = promptsOf(
  Array.from(model.tokenizer.encode(text)),
  Number(values.prompts),
  Number(values['prompt-tokens']),
)
const greedy = (draw: number) => ({ temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw })

/** Milliseconds of one greedy continuation, and what its rounds did; without a level of plain steps. */
async function decodeOnce(prompt: readonly number[], level: number | undefined, drafts: number) {
  const session = model.createSession()
  try {
    await session.prefill(Int32Array.from(prompt), 0)
    let token = session.sample(greedy(0)).tokenId
    const made = { ms: 0, draftMs: 0, tokens: 0, rounds: 0, drafted: 0, judged: 0, accepted: 0 }
    const begin = performance.now()
    while (made.tokens < tokens) {
      if (level === undefined) {
        token = (await session.decode(token, 0, greedy(made.tokens))).tokenId
        made.tokens++
        continue
      }
      const options = { level, tokens: drafts, least: 0, ends: Int32Array.of() }
      const { steps, drafted, draftSeconds } = await session.speculate(token, options, greedy(made.tokens))
      token = steps.at(-1)?.tokenId ?? token
      made.tokens += steps.length
      made.rounds++
      made.drafted += drafted
      made.judged += Math.min(drafted, steps.length)
      made.accepted += steps.length - 1
      made.draftMs += draftSeconds * 1000
    }
    return { ...made, ms: performance.now() - begin }
  } finally {
    session.release()
  }
}

type Decoded = Awaited<ReturnType<typeof decodeOnce>>

const sum = (of: readonly Decoded[], key: keyof Decoded) => of.reduce((total, made) => total + made[key], 0)
const perToken = ({ ms, tokens: made }: Decoded) => ms / made

/** Ratio of whole times per token, and its range over the prompts. */
function speedOf(plain: readonly Decoded[], other: readonly Decoded[]) {
  const ratios = other.map((made, i) => perToken(plain[i] as Decoded) / perToken(made))
  const whole = sum(plain, 'ms') / sum(plain, 'tokens') / (sum(other, 'ms') / sum(other, 'tokens'))
  return { speed: whole, range: [Math.min(...ratios), Math.max(...ratios)] as const }
}

const configurations = model.levels
  .slice(1)
  .flatMap((_, i) => draftCounts.map((drafts) => ({ level: i + 1, drafts })))
const plain: Decoded[] = []
const speculated = configurations.map(() => [] as Decoded[])
await decodeOnce(prompts[0] ?? [], undefined, 0)
for (const [i, prompt] of prompts.entries()) {
  process.stderr.write(`rounds of prompt ${i + 1} of ${prompts.length}\n`)
  plain.push(await decodeOnce(prompt, undefined, 0))
  for (const [c, { level, drafts }] of configurations.entries()) {
    speculated[c]?.push(await decodeOnce(prompt, level, drafts))
  }
}

const step = sum(plain, 'ms') / sum(plain, 'tokens')
const rows = configurations.map(({ level, drafts }, c) => {
  const made = speculated[c] ?? []
  const draft = sum(made, 'draftMs') / sum(made, 'drafted') / step
  const column = ((sum(made, 'ms') - sum(made, 'draftMs')) / sum(made, 'rounds') / step - 1) / drafts
  const acceptance = sum(made, 'accepted') / sum(made, 'judged')
  return {
    budget: model.levels[level]?.budget ?? 0,
    bytes: (model.levels[level]?.bytesPerToken ?? 0) / (model.levels[0]?.bytesPerToken ?? 1),
    ...{ drafts, acceptance, draft, column },
    tokensPerVerification: sum(made, 'tokens') / sum(made, 'rounds'),
    predicted: speedUp(acceptance, drafts, { draft, column }),
    ...speedOf(plain, made),
  }
})

const most = Math.max(...draftCounts)
const policies = model.levels
  .slice(1)
  .map(({ budget }) => ({ budget, made: [] as Decoded[], drafted: 0, accepted: 0 }))
const steps: Decoded[] = []

async function generateOnce(prompt: readonly number[], budget?: number) {
  const speculate = budget === undefined ? undefined : { tokens: most, budget }
  const begin = performance.now()
  const done = await complete(model.generate(prompt, { maxTokens: tokens, speculate }))
  const ms = performance.now() - begin - done.timeToFirstTokenMs
  return {
    done,
    made: { ms, draftMs: 0, tokens: done.tokenIds.length, rounds: 0, drafted: 0, judged: 0, accepted: 0 },
  }
}

for (const [i, prompt] of prompts.entries()) {
  process.stderr.write(`generation of prompt ${i + 1} of ${prompts.length}\n`)
  const expected = await generateOnce(prompt)
  steps.push(expected.made)
  for (const policy of policies) {
    const { done, made } = await generateOnce(prompt, policy.budget)
    if (done.text !== expected.done.text) throw new Error('speculation changed the text')
    policy.made.push(made)
    policy.drafted += done.drafted
    policy.accepted += done.accepted
  }
}
const generated = policies.map(({ budget, made, drafted, accepted }) => ({
  ...{ budget, drafted, accepted, tokens: sum(made, 'tokens') },
  ...speedOf(steps, made),
}))

const f = (value: number, digits = 2) => value.toFixed(digits)
const range = ([low, high]: readonly [number, number]) => `${f(low)} to ${f(high)}`
console.log(
  `${prompts.length} prompts of ${values['prompt-tokens']} tokens, ${tokens} tokens each; level 0 has budget ` +
    `${f(model.levels[0]?.budget ?? 1, 3)}; a plain step takes ${f(step)} ms\n`,
)
console.log(
  '| draft budget | its bytes | drafts | acceptance | tokens a verification | draft cost | column cost | predicted | speed | range |',
)
console.log('| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |')
for (const row of rows) {
  console.log(
    `| ${f(row.budget)} | ${f(row.bytes)} | ${row.drafts} | ${f(row.acceptance)} | ${f(row.tokensPerVerification)} | ` +
      `${f(row.draft)} | ${f(row.column)} | ${f(row.predicted)} | ${f(row.speed)} | ${range(row.range)} |`,
  )
}
console.log(`\n| speculate ${most}:B | drafted | accepted | of tokens | speed | range |`)
console.log('| ---: | ---: | ---: | ---: | ---: | --- |')
for (const row of generated) {
  console.log(
    `| ${f(row.budget)} | ${row.drafted} | ${row.accepted} | ${row.tokens} | ${f(row.speed)} | ${range(row.range)} |`,
  )
}
if (values.json !== undefined) {
  await writeFile(values.json, `${JSON.stringify({ step, rows, generated }, undefined, 2)}\n`)
}
model.dispose()
