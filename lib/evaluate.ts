import { checkLevel, checkObject, checkText, checkWhole } from './check.js'
import { counted } from './counted.js'
import { FlrcError } from './errors.js'
import { checkModel, type LoadedModel, type TaskOptions } from './model.js'
import { firstTokens } from './text.js'

export {
  type AgreementOptions,
  type AgreementResult,
  type AgreementStep,
  agreement,
} from './evaluate/agreement.js'
export { type ChoiceOptions, type ChoiceOutcome, type ChoiceResult, choice } from './evaluate/choice.js'
export {
  type SummarizeOptions,
  type SummarizeResult,
  type SummaryOutput,
  type SummaryReference,
  summarize,
} from './evaluate/summarize.js'
export {
  type BootstrapOptions,
  bootstrapMean,
  type Estimate,
  pairedDifference,
} from './statistics/bootstrap.js'

export interface PerplexityOptions extends TaskOptions {
  /** Tokens in a window; 2048 by default, or the context where that is less. */
  seqLen?: number
  /** Windows to measure, from the start of the text; all by default. */
  windows?: number
  /** Level to measure at; 0 by default. */
  level?: number
  /** Names the text in errors. */
  name?: string
}

export interface PerplexityResult {
  perplexity: number
  /** Losses measured: windows x (seqLen - 1). */
  tokens: number
  windows: number
  seqLen: number
}

/**
 * Perplexity of a text (design 8): the text tokenised once (line ends as `\n`), non-overlapping windows of seqLen tokens, the tail
 * dropped, seqLen - 1 losses a window, exp of their mean, fp32 logits. Errors: E_USAGE where the text gives no
 * window or the level does not exist, E_CONTEXT where seqLen exceeds the context, E_NUMERIC for a non-finite
 * logit.
 */
export async function perplexity(
  model: LoadedModel,
  text: string,
  options: PerplexityOptions = {},
): Promise<PerplexityResult> {
  checkModel(model)
  checkText('text', text, 'the text itself')
  checkObject('the third argument', options, 'options, such as { seqLen: 512 }')
  const context = model.config.contextLength
  const { seqLen = Math.min(2048, context), windows: limit, level = 0, name = 'the text' } = options
  checkWhole('seqLen', seqLen, 2)
  if (seqLen > context) {
    throw new FlrcError(
      'E_CONTEXT',
      `seqLen ${seqLen} exceeds the context of ${context}; give at most ${context}`,
    )
  }
  if (limit !== undefined) checkWhole('windows', limit, 1)
  checkLevel(level, model.levels.length)
  const tokens = firstTokens(model.tokenizer, text, (limit ?? Number.POSITIVE_INFINITY) * seqLen)
  const windows = Math.floor(tokens.length / seqLen)
  if (windows === 0) {
    throw new FlrcError(
      'E_USAGE',
      `${name} has ${counted(tokens.length, 'token')} and a window takes ${seqLen}; give a longer text or shorter windows (--seq-len)`,
    )
  }
  const losses = await model.windowLosses(tokens.slice(0, windows * seqLen), seqLen, level, options)
  const count = windows * (seqLen - 1)
  const total = losses.reduce((sum, loss) => sum + loss, 0)
  return { perplexity: Math.exp(total / count), tokens: count, windows, seqLen }
}
