import { FlrcError } from '../errors.js'
import { levelAt } from '../generate/steps.js'
import { checkModel, type LoadedModel } from '../model.js'
import type { NativeSampling, NativeStep } from '../native-types.js'
import type { Schedule } from '../schedule.js'
import { Session } from '../session.js'
import { lanesFor } from './lanes.js'
import { longestOf, type Prompt } from './prompts.js'
import { ofSample } from './samples.js'

const greedy: NativeSampling = { temperature: 0, topK: 0, topP: 1, minP: 0, seed: 0, draw: 0 }

/** What a model held likely at each step along another's tokens. Step 0 comes from prefill, at level 0. */
export interface ForcedRun {
  /** KL(reference || model), nats. */
  kl: number[]
  /** Whether both hold the same token the likeliest. */
  agrees: boolean[]
  /** Entropy of what the model holds likely, nats. */
  entropy: number[]
  levels: number[]
}

export interface ForcedOptions {
  /** Steps at most. */
  maxTokens: number
  signal: AbortSignal | undefined
  /** Hears of the prompts done so far. */
  onDone?: (done: number) => void
}

/**
 * Runs a model, once for each schedule, along the tokens that a reference decodes greedily at its level 0 from the
 * same prompts, up to its end token, which is the last that is compared. As both read the same tokens at every
 * step (teacher forcing), one early difference does not decide all that follows, and steps stay comparable. The
 * reference may be the model itself. Up to 16 prompts go side by side. Resolves to the runs by prompt and
 * schedule. Errors: E_NUMERIC with the sample's name, E_ABORTED.
 */
export async function runForced(
  model: LoadedModel,
  reference: LoadedModel,
  prompts: readonly Prompt[],
  schedules: readonly (Schedule | undefined)[],
  options: ForcedOptions,
): Promise<ForcedRun[][]> {
  // Every prompt has a cache for the reference and one a schedule.
  const length = (longestOf(prompts) + options.maxTokens) * (1 + schedules.length)
  const together = lanesFor(model, length)
  const runs: ForcedRun[][] = []
  for (let first = 0; first < prompts.length; first += together) {
    options.onDone?.(first)
    const group = new ForcedGroup(model, reference, options)
    try {
      for (const prompt of prompts.slice(first, first + together)) await group.add(prompt, schedules)
      runs.push(...(await group.run()))
    } finally {
      group.release()
    }
  }
  options.onDone?.(prompts.length)
  return runs
}

/** What `runForced` asks of a reference: E_USAGE where its vocabulary is not the model's. */
export function checkReference(model: LoadedModel, reference: LoadedModel): void {
  checkModel(model)
  checkModel(reference, 'the reference')
  const [size, other] = [model.config.vocabSize, reference.config.vocabSize]
  if (size === other) return
  throw new FlrcError(
    'E_USAGE',
    `${reference.source.path}: the reference has ${other} tokens and the model ${size}; give the model that it was made from`,
    { file: reference.source.path },
  )
}

interface Reader {
  id: string
  session: Session
  level: number
  /** What it holds likely next. */
  says: NativeStep
}

/** The model under one schedule, which reads what its reference says. */
interface Follower extends Reader {
  reference: Reader
  schedule: Schedule | undefined
  promptTokens: number
  run: ForcedRun
}

/** Prompts that go side by side. */
class ForcedGroup {
  readonly #model: LoadedModel
  readonly #reference: LoadedModel
  readonly #options: ForcedOptions
  readonly #prompts: { reference: Reader; followers: Follower[] }[] = []
  readonly #sessions: Session[] = []

  constructor(model: LoadedModel, reference: LoadedModel, options: ForcedOptions) {
    this.#model = model
    this.#reference = reference
    this.#options = options
  }

  async add({ id, tokens }: Prompt, schedules: readonly (Schedule | undefined)[]): Promise<void> {
    const theirs = await this.#prefilled(this.#reference, tokens)
    const ours = this.#model === this.#reference ? theirs : await this.#prefilled(this.#model, tokens)
    const reader = (session: Session): Reader => ({ id, session, level: 0, says: firstOf(id, session) })
    const reference = reader(theirs)
    const followers: Follower[] = []
    for (const schedule of schedules) {
      followers.push({
        ...reader(this.#keep(await ours.fork())),
        ...{
          reference,
          schedule,
          promptTokens: tokens.length,
          run: { kl: [], agrees: [], entropy: [], levels: [] },
        },
      })
    }
    this.#prompts.push({ reference, followers })
  }

  async run(): Promise<ForcedRun[][]> {
    const endTokens = new Set(this.#reference.tokenizer.eosTokenIds)
    let live = this.#prompts
    for (let step = 0; step < this.#options.maxTokens && live.length > 0; step++) {
      const references = live.map(({ reference }) => reference)
      const followers = live.flatMap((prompt) => prompt.followers)
      if (step > 0) {
        for (const follower of followers) follower.level = this.#levelAt(follower, step)
        // The followers first: they read what the references said last.
        await this.#read(followers, ({ reference }) => reference.says.tokenId)
        await this.#read(references, ({ says }) => says.tokenId)
      }
      await this.#compare(followers)
      live = live.filter(({ reference }) => !endTokens.has(reference.says.tokenId))
    }
    return this.#prompts.map(({ followers }) => followers.map(({ run }) => run))
  }

  release(): void {
    for (const session of this.#sessions) session.release()
  }

  async #read<T extends Reader>(readers: readonly T[], tokenOf: (reader: T) => number): Promise<void> {
    const requests = readers.map((reader) => {
      const { session, level } = reader
      return { session, level, token: tokenOf(reader), sampling: greedy }
    })
    const outcomes = await Session.decodeEach(requests, this.#options.signal)
    for (const [index, reader] of readers.entries()) {
      const outcome = outcomes[index]
      if (outcome === undefined || outcome instanceof FlrcError) throw ofSample(reader.id, outcome)
      reader.says = outcome
    }
  }

  async #compare(followers: readonly Follower[]): Promise<void> {
    const pairs = followers.map(({ reference, session }) => ({ reference: reference.session, session }))
    const kl = await Session.divergences(pairs, this.#options.signal)
    for (const [index, { run, says, reference, level }] of followers.entries()) {
      run.kl.push(kl[index] ?? Number.NaN)
      run.agrees.push(says.tokenId === reference.says.tokenId)
      run.entropy.push(says.entropy)
      run.levels.push(level)
    }
  }

  #levelAt({ schedule, promptTokens, says, level }: Follower, step: number): number {
    const { levels } = this.#model
    return levelAt(schedule, { step, promptTokens, entropy: says.entropy, level, levels })
  }

  async #prefilled(model: LoadedModel, tokens: readonly number[]): Promise<Session> {
    const session = this.#keep(model.createSession())
    await session.prefill(Int32Array.from(tokens), 0, this.#options.signal)
    return session
  }

  #keep(session: Session): Session {
    this.#sessions.push(session)
    return session
  }
}

function firstOf(id: string, session: Session): NativeStep {
  try {
    return session.sample(greedy)
  } catch (error) {
    throw ofSample(id, error)
  }
}
