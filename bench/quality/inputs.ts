import { readFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import path from 'node:path'
import { callNative, packageVersion } from '#lib/binding.js'
import { sha256OfFiles, sha256OfText } from '#lib/checkpoint/plan.js'
import { type ChoiceSample, parseChoices } from '#lib/data/choices.js'
import { type DialogueSample, parseDialogues } from '#lib/data/dialogues.js'
import { openModelSource } from '#lib/model-source.js'
import type { QualityOptions } from './options.js'
import type { PlanOptions } from './sections.js'
import type { Settings } from './store.js'

/** The texts and samples that rows are calibrated and measured on. */
export interface Inputs {
  calibration: string
  text: string
  choices: readonly ChoiceSample[] | undefined
  dialogues: readonly DialogueSample[] | undefined
  summaries: readonly DialogueSample[] | undefined
  transfer: readonly DialogueSample[] | undefined
}

/** What the source's file says of its weights. */
export interface SourceFacts {
  /** Type of the projections, such as BF16 or Q4_1. */
  type: string
  quantised: boolean
}

export interface Prepared {
  inputs: Inputs
  plan: PlanOptions
  settings: Settings
  facts: SourceFacts
}

const wideTypes = ['F32', 'F16', 'BF16']
const unknownWord = / <unk>/g

export function withoutUnknowns(text: string): string {
  return text.replace(unknownWord, '')
}

/** Reads the files that the options name. Errors are those of reading and parsing them. */
export async function prepare(options: QualityOptions): Promise<Prepared> {
  const read = (file: string | undefined) => (file === undefined ? undefined : readFile(file, 'utf8'))
  const dialoguesOf = (file: string | undefined, text: string | undefined) =>
    file === undefined || text === undefined ? undefined : parseDialogues(text, file)
  const choicesOf = (file: string | undefined, text: string | undefined) =>
    file === undefined || text === undefined ? undefined : parseChoices(text, file)

  const { files } = options
  const texts = {
    calibration: await readFile(files.calibration, 'utf8'),
    text: await readFile(files.text, 'utf8'),
    choices: await read(files.choices),
    dialogues: await read(files.dialogues),
    summaries: await read(files.summaries),
    transfer: await read(files.transfer),
  }
  const inputs: Inputs = {
    calibration: texts.calibration,
    text: texts.text,
    choices: choicesOf(files.choices, texts.choices),
    dialogues: dialoguesOf(files.dialogues, texts.dialogues),
    summaries: dialoguesOf(files.summaries, texts.summaries),
    transfer: dialoguesOf(files.transfer, texts.transfer),
  }
  const { settings: model, facts } = await modelSettings(options.model)
  const { numbers, limits, dtype } = options
  const settings = { ...model, ...textSettings(files, texts), ...numbers, ...limits, dtype, ...runSettings() }
  return { inputs, plan: planOptions(options, inputs, facts), settings, facts }
}

/** What tells one model from another, and what its file says of its weights. */
export async function modelSettings(source: string): Promise<{ settings: Settings; facts: SourceFacts }> {
  const { tensors, path: model } = await openModelSource(source)
  const projection = Array.from(tensors.values()).find(({ name }) => name.endsWith('_proj.weight'))
  const type = projection?.type ?? 'BF16'
  const weights = [...new Set(Array.from(tensors.values(), ({ file }) => file))]
  const settings = {
    model: path.basename(path.resolve(model)),
    modelSha256: await sha256OfFiles(weights),
    weights: type,
  }
  return { settings, facts: { type, quantised: !wideTypes.includes(type) } }
}

/** Names and hashes of the texts that there are, and which of a calibration text's windows are taken. */
export function textSettings(
  files: Readonly<Record<string, string | undefined>>,
  texts: Readonly<Record<string, string | undefined>>,
): Settings {
  const settings: Settings = { textWindows: 'spread over the text' }
  for (const [name, text] of Object.entries(texts)) {
    const file = files[name]
    if (text === undefined || file === undefined) continue
    settings[name] = path.basename(file)
    settings[`${name}Sha256`] = sha256OfText(text)
  }
  return settings
}

export function runSettings(): Settings {
  const { target } = callNative((addon) => addon.info())
  return { flrc: packageVersion, instructionSet: target, cores: cpus().length }
}

function planOptions(options: QualityOptions, inputs: Inputs, facts: SourceFacts): PlanOptions {
  return {
    keeps: options.keeps,
    dtype: options.dtype,
    choiceKeep: inputs.choices === undefined ? undefined : options.choiceKeep,
    dialogues: inputs.dialogues !== undefined,
    summaries: inputs.summaries !== undefined,
    transfer: inputs.transfer !== undefined,
    full: options.full,
    unknowns: withoutUnknowns(inputs.calibration) !== inputs.calibration,
    quantisedSource: facts.quantised,
  }
}
