/** What rows wrote, kept beside their models: to be read, and to compare others with the dense model's. */
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type OutputLine, parseOutputs } from '#lib/data/outputs.js'
import type { Settings } from '../quality/store.js'
import type { RowPlan } from './rows.js'

export class OutputFolder {
  readonly #folder: string
  readonly #settings: Settings

  constructor(folder: string, settings: Settings) {
    this.#folder = path.join(folder, 'outputs')
    this.#settings = settings
  }

  /** The texts of a row so far, by sample; none where there is no file. Errors: E_USAGE for a broken one. */
  async read(row: Pick<RowPlan, 'key' | 'name'>): Promise<OutputLine[]> {
    const file = this.#path(row)
    try {
      return parseOutputs(await readFile(file, 'utf8'), file)
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
      throw error
    }
  }

  /** Replaces a row's texts. */
  async write(row: Pick<RowPlan, 'key' | 'name'>, lines: readonly OutputLine[]): Promise<void> {
    const file = this.#path(row)
    await mkdir(this.#folder, { recursive: true })
    await writeFile(`${file}.part`, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    await rename(`${file}.part`, file)
  }

  /** Named by what the texts depend on, so that a folder serves other runs, and no wrong one. */
  #path({ key, name }: Pick<RowPlan, 'key' | 'name'>): string {
    const { modelSha256, calibrationSha256, dialoguesSha256, summariesSha256, devSha256 } = this.#settings
    const { samples, seqLen, maxTokens } = this.#settings
    const files = [modelSha256, calibrationSha256, dialoguesSha256, summariesSha256, devSha256]
    const made = [key, ...files, samples, seqLen, maxTokens].join('\n')
    const hash = createHash('sha256').update(made).digest('hex').slice(0, 12)
    return path.join(this.#folder, `${name.replaceAll(/[^\w.]+/g, '-')}-${hash}.jsonl`)
  }
}
