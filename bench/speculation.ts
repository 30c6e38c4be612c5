/**
 * What self-speculation gains: `npm run bench -- speculation [MODEL] [--text FILE]`.
 *
 * For every lower level of an FLRC checkpoint (without MODEL the embedded one, compressed to several levels first) and
 * several numbers of drafts: acceptance, tokens a verification, what a draft and a further column of level 0's pass
 * cost in plain steps, the speed that the break-even formula promises of them and the one measured, all against plain
 * steps of the same prompts, which take turns with them. Then the same prompts through `generate` with and without
 * `speculate`, whose policy chooses the number of drafts (first speed: of each prompt's first decoding, in which the
 * policy still learns). Prompts are cut from FILE (the embedded model's held-out text) at even distances; decoding is
 * greedy, or draws at `--temperature`. Each decoding is timed `--repeats` times, in turn with all others, and the fastest
 * counts; speeds are ratios of times summed over the prompts, with the range over the prompts.
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
    repeats: { type: 'string', default: '3' },
    temperature: { type: 'string', default: '0' },
    drafts: { type: 'string', multiple: true, default: ['1', '2', '4', '8'] },
    json: { type: 'string' },
  },
})

const tiny = path.join(packageRoot, 'models', 'tiny')
const tokens = Number(values.tokens)
const temperature = Number(values.temperature)
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

/** One decoding, and what its rounds did. */
const nothing = { ms: 0, draftMs: 0, tokens: 0, rounds: 0, drafted: 0, judged: 0, accepted: 0 }
type Decoded = typeof nothing

const samplingAt = (draw: number) => ({ temperature, topK: 0, topP: 1, minP: 0, seed: 0, draw })

/** Rounds of the same number of drafts, or, without any, plain steps. */
async function decodeRounds(prompt: readonly number[], level: number, drafts: number): Promise<Decoded> {
  const session = model.createSession()
  try {
    await session.prefill(Int32Array.from(prompt), 0)
    let token = session.sample(samplingAt(0)).tokenId
    const made = { ...nothing }
    const begin = performance.now()
    while (made.tokens < tokens) {
      if (drafts === 0) {
        token = (await session.decode(token, level, samplingAt(made.tokens))).tokenId
        made.tokens++
        continue
      }
      const options = { level, tokens: drafts, least: 0, ends: Int32Array.of() }
      const { steps, drafted, draftSeconds } = await session.speculate(token, options, samplingAt(made.tokens))
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

async function generateOnce(prompt: readonly number[], budget: number | undefined): Promise<Decoded> {
  const speculate = budget === undefined ? undefined : { tokens: most, budget }
  const begin = performance.now()
  const done = await complete(model.generate(prompt, { maxTokens: tokens, temperature, speculate }))
  const ms = performance.now() - begin - done.timeToFirstTokenMs
  const { tokenIds, drafted, accepted } = done
  return { ...nothing, ms, tokens: tokenIds.length, drafted, accepted }
}

const most = Math.max(...draftCounts)
const lower = model.levels.slice(1).map(({ budget }, i) => ({ level: i + 1, budget }))
const fixed = lower.flatMap(({ level, budget }) => draftCounts.map((drafts) => ({ level, budget, drafts })))
const ways: ((prompt: readonly number[]) => Promise<Decoded>)[] = [
  (prompt) => decodeRounds(prompt, 0, 0),
  ...fixed.map(
    ({ level, drafts }) =>
      (prompt: readonly number[]) =>
        decodeRounds(prompt, level, drafts),
  ),
  (prompt) => generateOnce(prompt, undefined),
  ...lower.map(
    ({ budget }) =>
      (prompt: readonly number[]) =>
        generateOnce(prompt, budget),
  ),
]

/** Per way the first and the fastest decoding of each prompt. */
const first = ways.map(() => [] as Decoded[])
const fastest = ways.map(() => [] as Decoded[])
for (const [i, prompt] of prompts.entries()) {
  process.stderr.write(`prompt ${i + 1} of ${prompts.length}\n`)
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) {
    for (const [way, run] of ways.entries()) {
      const made = await run(prompt)
      if (repeat === 0) (first[way] as Decoded[])[i] = made
      const best = fastest[way]?.[i]
      if (best === undefined || made.ms < best.ms) (fastest[way] as Decoded[])[i] = made
    }
  }
}

const sum = (of: readonly Decoded[], key: keyof Decoded) => of.reduce((total, made) => total + made[key], 0)
const perToken = (of: readonly Decoded[]) => sum(of, 'ms') / sum(of, 'tokens')

/** Ratio of times a token, and its range over the prompts. */
function speedOf(plain: readonly Decoded[], other: readonly Decoded[]) {
  const ratios = other.map((made, i) => perToken([plain[i] as Decoded]) / perToken([made]))
  return {
    speed: perToken(plain) / perToken(other),
    range: [Math.min(...ratios), Math.max(...ratios)] as const,
  }
}

const [plain = [], ...others] = fastest
const step = perToken(plain)
const rows = fixed.map(({ level, budget, drafts }, i) => {
  const made = others[i] ?? []
  const draft = sum(made, 'draftMs') / sum(made, 'drafted') / step
  const column = ((sum(made, 'ms') - sum(made, 'draftMs')) / sum(made, 'rounds') / step - 1) / drafts
  const acceptance = sum(made, 'accepted') / sum(made, 'judged')
  return {
    budget,
    bytes: (model.levels[level]?.bytesPerToken ?? 0) / (model.levels[0]?.bytesPerToken ?? 1),
    ...{ drafts, acceptance, draft, column },
    tokensPerVerification: sum(made, 'tokens') / sum(made, 'rounds'),
    predicted: speedUp(acceptance, drafts, { draft, column }),
    ...speedOf(plain, made),
  }
})
const [single = [], ...speculated] = others.slice(fixed.length)
const [firstSingle = [], ...firstSpeculated] = first.slice(1 + fixed.length)
const generated = lower.map(({ budget }, i) => {
  const made = speculated[i] ?? []
  const { speed, range } = speedOf(single, made)
  const unlearnt = speedOf(firstSingle, firstSpeculated[i] ?? []).speed
  return { budget, drafted: sum(made, 'drafted'), accepted: sum(made, 'accepted'), unlearnt, speed, range }
})

const f = (value: number, digits = 2) => value.toFixed(digits)
const range = ([low, high]: readonly [number, number]) => `${f(low)} to ${f(high)}`
console.log(
  `${prompts.length} prompts of ${values['prompt-tokens']} tokens, ${tokens} tokens each at temperature ${temperature}; ` +
    `level 0 has budget ` +
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
console.log(`\n| speculate ${most}:B | drafted | accepted | first speed | speed | range |`)
console.log('| ---: | ---: | ---: | ---: | ---: | --- |')
for (const row of generated) {
  console.log(
    `| ${f(row.budget)} | ${row.drafted} | ${row.accepted} | ${f(row.unlearnt)} | ${f(row.speed)} | ${range(row.range)} |`,
  )
}
if (values.json !== undefined) {
  await writeFile(values.json, `${JSON.stringify({ step, rows, generated }, undefined, 2)}\n`)
}
model.dispose()
