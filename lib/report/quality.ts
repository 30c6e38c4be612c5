import * as v from 'valibot'
import { FlrcError } from '../errors.js'
import { issueText, readJsonObject } from '../format/files.js'
import { type MeasuredModel, measuredModels, rowSchema } from './measured.js'

export interface QualityRows {
  /** How and on what perplexities and sizes were measured; empty where none were. */
  caption: string
  /** The same of summaries. */
  summariesCaption?: string
  /** SHA-256 of the weights of the model that was compressed. */
  modelSha256?: string
  models: readonly MeasuredModel[]
}

const fileSchema = v.object({
  version: v.literal(1),
  settings: v.record(v.string(), v.union([v.string(), v.number()])),
  rows: v.array(rowSchema),
})

const limit = 100_000_000
const remedy = 'give a file that npm run bench:quality -- --json FILE wrote'

/**
 * The rows that `npm run bench:quality` or `bench:progressive` wrote with `--json FILE`, of one file after another.
 * E_NOT_FOUND, E_IO, E_USAGE for another file, or files of different models.
 */
export async function readQuality(files: readonly string[]): Promise<QualityRows> {
  const read = await Promise.all(files.map(readRows))
  const hashes = new Set(read.flatMap(({ modelSha256 }) => modelSha256 ?? []))
  if (hashes.size > 1) {
    throw new FlrcError('E_USAGE', `${files.join(', ')} are of different models; give rows of one model`)
  }
  const [modelSha256] = hashes
  return {
    caption: joined(read.map(({ caption }) => caption)),
    summariesCaption: joined(read.map(({ summariesCaption = '' }) => summariesCaption)),
    models: read.flatMap(({ models }) => models),
    ...(modelSha256 === undefined ? {} : { modelSha256 }),
  }
}

async function readRows(file: string): Promise<QualityRows> {
  const parsed = v.safeParse(fileSchema, await readJsonObject(file, { limit, code: 'E_USAGE', remedy }))
  if (!parsed.success) {
    throw new FlrcError('E_USAGE', `${file}: ${issueText(parsed.issues)}; ${remedy}`, { file })
  }
  const { settings, rows } = parsed.output
  const { modelSha256 } = settings
  return {
    caption: captionOf(settings),
    summariesCaption: summariesCaptionOf(settings),
    models: measuredModels(rows),
    ...(typeof modelSha256 === 'string' ? { modelSha256 } : {}),
  }
}

function joined(captions: readonly string[]): string {
  return captions.filter((caption) => caption !== '').join(' ')
}

type Settings = Record<string, string | number>

/** Rows of `bench:progressive` have no windows. */
function captionOf({ model, weights, calibration, samples, seqLen, text, windows }: Settings): string {
  if (windows === undefined) return ''
  const on = text === undefined ? '' : `, perplexity of ${windows} windows of ${seqLen} tokens of ${text}`
  return (
    `${model} (weights in ${weights}); calibrated on ${samples} windows of ${seqLen} tokens of ${calibration}${on}. ` +
    'Embeddings and output head count as int8 in every row.'
  )
}

function summariesCaptionOf({ calibratedOn, calibration, samples, seqLen, summaries }: Settings): string {
  if (summaries === undefined) return ''
  return `Dialogues of ${summaries}; calibrated on ${samples} windows of ${seqLen} tokens, ${calibratedOn ?? calibration} unless said otherwise.`
}
