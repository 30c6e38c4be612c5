import { evaluate, type Model } from 'flrc'
import type { Inputs } from './inputs.js'
import type { Bench } from './make.js'
import type { LevelRow, Measure, Row } from './rows.js'
import { summaryScores } from './summaries.js'

const fullSeqLen = 2048

/** Takes one measure of a model: the row's part that it fills. */
export async function measure(model: Model, what: Measure, bench: Bench): Promise<Partial<Row>> {
  const { inputs, limits, signal } = bench
  switch (what) {
    case 'perplexity':
      return byLevel(model, bench)
    case 'full': {
      const seqLen = Math.min(fullSeqLen, model.config.contextLength)
      const { perplexity } = await evaluate.perplexity(model, inputs.text, { seqLen, signal })
      return { full: perplexity }
    }
    case 'transfer': {
      const { seqLen, windows } = bench.numbers
      const text = plainDialogues(inputs)
      const { perplexity } = await evaluate.perplexity(model, text, { seqLen, windows, signal })
      return { transfer: perplexity }
    }
    case 'choice': {
      const options = { limit: limits.choiceLimit, signal }
      const result = await evaluate.choice(model, inputs.choices ?? [], options)
      const { accuracy, accuracyNormalised, samples, intervals } = result
      return { choice: { accuracy, accuracyNormalised, samples, intervals } }
    }
    case 'summaries':
      return { summaries: await summaryScores(model, bench) }
  }
}

async function byLevel(model: Model, { inputs, numbers, signal }: Bench): Promise<Partial<Row>> {
  const { seqLen, windows } = numbers
  const levels: LevelRow[] = []
  for (const [level, { budget }] of model.levels.entries()) {
    const options = { seqLen, windows, level, signal }
    const { perplexity } = await evaluate.perplexity(model, inputs.text, options)
    levels.push({ budget, perplexity })
  }
  const [first] = levels
  return { perplexity: first?.perplexity, ...(levels.length > 1 ? { levels } : {}) }
}

/** As they were spoken: a model without a chat template can be measured on them too. */
function plainDialogues({ transfer = [] }: Inputs): string {
  const spoken = transfer.map(
    ({ dialogue, messages = [] }) => dialogue ?? messages.map(({ content }) => content).join('\n'),
  )
  return spoken.join('\n\n')
}
