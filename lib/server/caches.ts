import type { BatchSession, DecodeBatch } from '../generate/batch.js'
import { sharedLength } from '../generate/prompt.js'
import type { ScheduleChoice } from '../schedule.js'

/** A session and the tokens whose keys and values it holds. */
export interface CachedPrompt {
  session: BatchSession
  tokens: number[]
  /** How many of the first tokens level 0 has computed: what any request may go on with. */
  exact: number
  /** Of the request that computed it, whose like may go on with all of it. */
  schedule: ScheduleChoice
}

/** Adds a token that a pass at `level` has put into the session. */
export function hold(cached: CachedPrompt, token: number, level: number): void {
  if (level === 0 && cached.exact === cached.tokens.length) cached.exact++
  cached.tokens.push(token)
}

/** Tokens of a cache that a request of this schedule may go on with. */
function usable({ tokens, exact, schedule }: CachedPrompt, wanted: ScheduleChoice): number {
  return schedule === wanted ? tokens.length : exact
}

/** Tokens that must be shared for a cache to be worth going on with. */
const leastShared = 16
/** What may be lost of a cache, in shares of what is gone on with, before that is copied instead. */
const lossShare = 1 / 16

/**
 * The caches of generations that have ended, for prompts that begin as they did: the next turn of a chat, or another
 * chat under the same system prompt. The least recently used go first where they take more memory than they may.
 */
export class PromptCaches {
  readonly #batch: DecodeBatch
  readonly #mostBytes: number
  /** The most recently used last. */
  #idle: CachedPrompt[] = []
  #taken: Promise<unknown> = Promise.resolve()

  constructor(batch: DecodeBatch, mostBytes: number) {
    this.#batch = batch
    this.#mostBytes = mostBytes
  }

  /** A session that holds nothing yet. */
  empty(schedule: ScheduleChoice): CachedPrompt {
    return { session: this.#batch.open(), tokens: [], exact: 0, schedule }
  }

  /**
   * A session that holds as much of the beginning of `tokens` as any cache has, but for the last, whose logits are
   * wanted: what level 0 has computed, and what lower levels have for requests of the same schedule. A cache of which
   * much would be lost is copied, and stays.
   */
  take(tokens: readonly number[], schedule: ScheduleChoice): Promise<CachedPrompt> {
    // One after another: what is being copied cannot be gone on with meanwhile.
    const result = this.#taken.then(() => this.#take(tokens, schedule))
    this.#taken = result.catch(() => undefined)
    return result
  }

  async #take(tokens: readonly number[], schedule: ScheduleChoice): Promise<CachedPrompt> {
    const [found, shared] = this.#longest(tokens, schedule)
    if (found === undefined || shared < leastShared) return this.empty(schedule)
    const exact = Math.min(found.exact, shared)
    const others = () => this.#idle.filter((cached) => cached !== found)
    if (found.tokens.length - shared > Math.max(leastShared, shared * lossShare)) {
      const session = await found.session.fork(shared)
      if (this.#idle.includes(found)) this.#idle = [...others(), found]
      return { session, tokens: found.tokens.slice(0, shared), exact, schedule }
    }
    found.session.rewind(shared)
    this.#idle = others()
    found.tokens.length = shared
    return Object.assign(found, { exact, schedule })
  }

  /** Keeps a session that is whole, for later. */
  keep(cached: CachedPrompt): void {
    // What another holds of the same beginning is of no use beside it, unless it was computed at higher levels.
    const superseded = this.#idle.filter(({ tokens, exact, schedule }) => {
      const shared = Math.min(sharedLength(tokens, cached.tokens), usable(cached, schedule))
      return shared === tokens.length && exact <= cached.exact
    })
    cached.session.rest()
    this.#idle.push(cached)
    this.#release(superseded)
    let bytes = this.#idle.reduce((sum, { session }) => sum + session.bytes, 0)
    const surplus = this.#idle.filter(({ session }) => {
      if (bytes <= this.#mostBytes) return false
      bytes -= session.bytes
      return true
    })
    this.#release(surplus)
  }

  clear(): void {
    this.#release(this.#idle)
  }

  #release(caches: readonly CachedPrompt[]): void {
    this.#idle = this.#idle.filter((cached) => !caches.includes(cached))
    for (const { session } of caches) session.release()
  }

  #longest(tokens: readonly number[], schedule: ScheduleChoice): [CachedPrompt | undefined, shared: number] {
    let found: CachedPrompt | undefined
    let longest = 0
    for (const cached of this.#idle) {
      const common = Math.min(sharedLength(cached.tokens, tokens), tokens.length - 1)
      const shared = Math.min(common, usable(cached, schedule))
      if (shared < longest) continue
      found = cached
      longest = shared
    }
    return [found, longest]
  }
}
