import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { sha256OfText } from '#lib/checkpoint/plan.js'
import { parseDialogues } from '#lib/data/dialogues.js'
import { modelSettings, runSettings, textSettings } from '../quality/inputs.js'
import type { Bench } from '../quality/make.js'
import type { Settings } from '../quality/store.js'
import type { MeasureOptions } from './measure.js'
import type { ProgressiveOptions } from './options.js'
import { readSearch, type StoredSearch } from './search.js'

export interface Prepared {
  bench: Bench
  measure: MeasureOptions
  settings: Settings
  search: StoredSearch | undefined
}

/** Reads the files that the options name. Errors are those of reading and parsing them. */
export async function prepare(options: ProgressiveOptions, signal: AbortSignal): Promise<Prepared> {
  const { files, numbers, limit, alongLimit, speed } = options
  const texts: Record<string, string> = {}
  for (const [name, file] of Object.entries(files)) {
    if (file !== undefined) texts[name] = await readFile(file, 'utf8')
  }
  const dialoguesOf = (name: 'dialogues' | 'summaries' | 'dev') => {
    const text = texts[name]
    return text === undefined ? undefined : parseDialogues(text, files[name] ?? name)
  }
  const inputs = {
    calibration: texts.calibration ?? '',
    text: texts.text ?? '',
    ...{ choices: undefined, transfer: undefined },
    dialogues: dialoguesOf('dialogues'),
    summaries: dialoguesOf('summaries'),
  }
  const { samples, seqLen, maxTokens, devLimit } = numbers
  const bench: Bench = {
    ...{ source: options.model, dtype: options.dtype, inputs, signal },
    numbers: { samples, seqLen, windows: 1, searchWindows: 1 },
    limits: {},
  }
  const prompts = inputs.summaries ?? inputs.text
  // Of windows of text nothing is written.
  const compared = inputs.summaries === undefined ? limit : alongLimit
  const measure = {
    maxTokens,
    limit,
    alongLimit: compared,
    prompts,
    text: inputs.text,
    dev: dialoguesOf('dev'),
    devLimit,
    speed,
  }
  const settings = await settingsOf(options, texts)
  const { asvd } = options
  const search = asvd === undefined ? undefined : await readSearch(asvd, String(settings.modelSha256))
  if (search === undefined) return { bench, measure, settings, search }
  const found = { asvdWindows: search.windows, asvdSha256: sha256OfText(JSON.stringify(search.losses)) }
  return { bench, measure, settings: { ...settings, ...found }, search }
}

async function settingsOf(
  options: ProgressiveOptions,
  texts: Readonly<Record<string, string>>,
): Promise<Settings> {
  const { files, numbers, dtype, source, span } = options
  const { settings } = await modelSettings(options.model)
  const prompts = path.basename(files.summaries ?? files.text)
  const own = { ...numbers, dtype, calibratedOn: source, span, prompts }
  return { ...settings, ...textSettings(files, texts), ...own, ...runSettings() }
}
