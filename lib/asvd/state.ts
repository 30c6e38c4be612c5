import { mkdir, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import * as v from 'valibot'
import { type Sensitivity, sensitivityRatios } from '../allocate.js'
import { ioError, replaceFile } from '../checkpoint/io.js'
import { sha256OfText } from '../checkpoint/plan.js'
import { statePath } from '../checkpoint/state.js'
import { FlrcError } from '../errors.js'
import { readJsonObject, statIfThere } from '../format/files.js'

type Found = Sensitivity['projections']

const number = v.pipe(v.number(), v.finite())
const stateSchema = v.object({
  found: v.array(
    v.object({
      name: v.string(),
      losses: v.pipe(v.array(number), v.length(sensitivityRatios.length)),
      seconds: number,
    }),
  ),
  sha256: v.string(),
})
/** A state beyond this is none. */
const stateLimit = 100_000_000

/** What an interrupted sensitivity search goes on from: `PREFIX-<hash>`, a file of the projections that are measured. */
export class SearchState {
  readonly #file: string
  readonly found: Found

  private constructor(file: string, found: Found) {
    this.#file = file
    this.found = found
  }

  /**
   * @param key all that decides the result
   * @param resume whether to go on from what is there
   * @throws E_MODEL_FORMAT for a damaged one, E_IO
   */
  static async open(prefix: string, key: unknown, resume: boolean): Promise<SearchState> {
    const file = statePath(prefix, key)
    try {
      await mkdir(dirname(file), { recursive: true })
      if (!resume) await rm(file, { force: true })
    } catch (error) {
      throw ioError(error, file)
    }
    return new SearchState(file, (await statIfThere(file)) ? await read(file) : [])
  }

  /** Keeps the next one. E_IO. */
  async add(one: Found[number]): Promise<void> {
    this.found.push(one)
    const found = this.found.map(({ name, losses, seconds }) => ({ name, losses: Array.from(losses), seconds }))
    await replaceFile(this.#file, JSON.stringify({ found, sha256: hashOf(found) }))
  }
}

function hashOf(found: unknown): string {
  return sha256OfText(JSON.stringify(found))
}

async function read(file: string): Promise<Found> {
  const refuse = (cause?: unknown) =>
    new FlrcError('E_MODEL_FORMAT', `${file} is damaged; remove it, or run again without --resume`, {
      file,
      cause,
    })
  let json: unknown
  try {
    json = await readJsonObject(file, { limit: stateLimit, code: 'E_MODEL_FORMAT' })
  } catch (error) {
    throw error instanceof FlrcError && error.code === 'E_MODEL_FORMAT' ? refuse(error) : error
  }
  const parsed = v.safeParse(stateSchema, json)
  if (!parsed.success || hashOf(parsed.output.found) !== parsed.output.sha256) throw refuse()
  return parsed.output.found.map((one) => ({ ...one, losses: Float64Array.from(one.losses) }))
}
