import * as v from 'valibot'
import { type Sensitivity, sensitivityRatios } from '../allocate.js'
import { replaceFile } from '../checkpoint/io.js'
import { sha256OfText } from '../checkpoint/plan.js'
import { OpenState, type StateOptions } from '../checkpoint/state.js'
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
  readonly #state: OpenState
  readonly found: Found

  private constructor(state: OpenState, found: Found) {
    this.#state = state
    this.found = found
  }

  /** E_MODEL_FORMAT for a damaged one, E_BUSY, E_IO, E_ABORTED. */
  static async open(options: StateOptions, signal: AbortSignal | undefined): Promise<SearchState> {
    const state = await OpenState.open(options, signal)
    try {
      return new SearchState(state, (await statIfThere(state.path)) ? await read(state.path) : [])
    } catch (error) {
      state.release()
      throw error
    }
  }

  /** Keeps the next one. E_IO. */
  async add(one: Found[number]): Promise<void> {
    this.found.push(one)
    const found = this.found.map(({ name, losses, seconds }) => ({ name, losses: Array.from(losses), seconds }))
    await replaceFile(this.#state.path, JSON.stringify({ found, sha256: hashOf(found) }))
  }

  release(): void {
    this.#state.release()
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
