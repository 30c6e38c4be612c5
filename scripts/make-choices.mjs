// Makes a multiple-choice set for `flrc eval choice` from dialogues with summaries (such as DialogSum):
// `node scripts/make-choices.mjs IN.jsonl OUT.jsonl [--seed N]`. A sample's context is the dialogue, its choices
// are its own (first) summary and those of three other dialogues, which are drawn among the dozen nearest to it
// in length, so that length gives nothing away. Equal seeds give equal files. Needs `npm run build`. The output
// quotes its input: where that may not be passed on, neither may this.
import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { parseDialogues } from '#lib/data/dialogues.js'
import { FlrcError } from '#lib/errors.js'
import { below, uniformNumbers } from '#lib/statistics/random.js'

const others = 3
const nearest = 12

function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seed: { type: 'string', default: '0' } },
  })
  const [input, output, ...rest] = positionals
  const seed = Number(values.seed)
  if (output === undefined || rest.length > 0 || !/^\d+$/.test(values.seed) || !Number.isSafeInteger(seed)) {
    throw new FlrcError('E_USAGE', 'give IN.jsonl, OUT.jsonl and, if wanted, --seed with a whole number from 0')
  }
  const pool = distinct(parseDialogues(readFileSync(input, 'utf8'), input))
  if (pool.length <= others) {
    throw new FlrcError(
      'E_USAGE',
      `${input}: has ${pool.length} dialogues with a summary; give at least ${others + 1}`,
    )
  }
  const uniform = uniformNumbers(seed)
  const lines = pool.map((sample) => JSON.stringify(choiceOf(sample, pool, uniform)))
  writeFileSync(output, `${lines.join('\n')}\n`, { flag: 'wx' })
  console.error(`${lines.length} samples of ${others + 1} choices`)
}

/** Samples with a dialogue and a summary, each dialogue and each summary once. */
function distinct(samples) {
  const seen = new Set()
  return samples
    .map(({ id, dialogue, summaries }, index) => ({ id: id ?? String(index + 1), dialogue, summaries }))
    .filter(({ dialogue, summaries }) => dialogue !== undefined && summaries !== undefined)
    .filter(({ dialogue, summaries: [summary] }) => {
      const fresh = !seen.has(dialogue) && !seen.has(summary)
      seen.add(dialogue).add(summary)
      return fresh
    })
}

function choiceOf({ id, dialogue, summaries }, pool, uniform) {
  const [own] = summaries
  const apart = ({ summaries: [text] }) => Math.abs(text.length - own.length)
  const near = pool
    .filter((other) => !summaries.includes(other.summaries[0]))
    .sort((a, b) => apart(a) - apart(b))
    .slice(0, nearest)
  const choices = Array.from(
    { length: others },
    () => near.splice(below(near.length, uniform), 1)[0].summaries[0],
  )
  const answer = below(others + 1, uniform)
  choices.splice(answer, 0, own)
  return { id, context: `${dialogue}\n\nSummary:`, choices: choices.map((text) => ` ${text}`), answer }
}

try {
  main()
} catch (error) {
  if (error.code === undefined) throw error
  console.error(`make-choices: ${error.code}: ${error.message}`)
  process.exitCode = error.code === 'E_USAGE' ? 2 : 1
}
