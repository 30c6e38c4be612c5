import { readFile, rename, writeFile } from 'node:fs/promises'
import { FlrcError } from 'flrc'
import type { Row } from './rows.js'

/** What the rows of a file have in common; a text is told by its SHA-256, its name is for readers. */
export type Settings = Record<string, string | number>

interface Contents<R> {
  version: 1
  settings: Settings
  rows: R[]
}

/** The rows made so far, kept in a JSON file where one is named: written again, whole, after every row. */
export class RowStore<R extends { key: string } = Row> {
  readonly #file: string | undefined
  readonly #settings: Settings
  readonly #rows: Map<string, R>

  private constructor(file: string | undefined, settings: Settings, rows: readonly R[]) {
    this.#file = file
    this.#settings = settings
    this.#rows = new Map(rows.map((row) => [row.key, row]))
  }

  /**
   * Opens a file to add to (`resume`) or a new one. E_EXISTS for a file that is there already, so that no hour
   * of work is lost; E_USAGE for one whose rows were measured in another way.
   */
  static async open<R extends { key: string } = Row>(
    file: string | undefined,
    settings: Settings,
    resume: boolean,
  ): Promise<RowStore<R>> {
    const text = file === undefined ? undefined : await readIfThere(file)
    if (text === undefined || file === undefined) return new RowStore(file, settings, [])
    if (!resume) {
      throw new FlrcError('E_EXISTS', `${file} exists; add what it lacks with --continue, or remove it`, {
        file,
      })
    }
    const stored = parse<R>(text, file)
    for (const [name, value] of Object.entries(settings)) {
      const before = stored.settings[name]
      if (before === undefined || before === value) continue
      throw new FlrcError(
        'E_USAGE',
        `${file} was made with ${name} ${before}, not ${value}; continue with the same, or name another file`,
        { file },
      )
    }
    return new RowStore(file, { ...stored.settings, ...settings }, stored.rows)
  }

  /** What is kept with the rows, those of before included. */
  get settings(): Settings {
    return this.#settings
  }

  get rows(): R[] {
    return [...this.#rows.values()]
  }

  get(key: string): R | undefined {
    return this.#rows.get(key)
  }

  async put(row: R): Promise<void> {
    this.#rows.set(row.key, row)
    if (this.#file === undefined) return
    const contents: Contents<R> = { version: 1, settings: this.#settings, rows: this.rows }
    const beside = `${this.#file}.part`
    await writeFile(beside, `${linedJson(contents)}\n`)
    await rename(beside, this.#file)
  }
}

/** A list of scalars as JSON.stringify breaks it; no string of JSON holds a line's end. */
const scalar = String.raw`(?:"(?:[^"\\]|\\.)*"|[-+.\w]+)`
const brokenList = new RegExp(String.raw`\[\n\s+(${scalar}(?:,\n\s+${scalar})*)\n\s+\]`, 'g')

/** Indented JSON, with every list of scalars on one line: scores of hundreds of samples stay readable. */
function linedJson(value: unknown): string {
  return JSON.stringify(value, undefined, 2).replace(
    brokenList,
    (_, list: string) => `[${list.replaceAll(/,\n\s+/g, ', ')}]`,
  )
}

async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

function parse<R>(text: string, file: string): Contents<R> {
  try {
    const contents = JSON.parse(text) as Partial<Contents<R>>
    if (contents.version === 1 && contents.settings !== undefined && Array.isArray(contents.rows)) {
      return contents as Contents<R>
    }
  } catch {
    // Told below: no file of ours is broken JSON.
  }
  throw new FlrcError('E_USAGE', `${file} holds no rows of this command; name another file`, { file })
}
