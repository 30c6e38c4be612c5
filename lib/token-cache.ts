/**
 * Tokens of words seen lately. The library's own cache moves a word to the end of a Map whenever it is found, which takes
 * some 30 microseconds once the Map is full: ten times what the rest of encoding does.
 */
export class TokenCache {
  readonly #capacity: number
  #recent = new Map<string, string[]>()
  #before = new Map<string, string[]>()

  /** Holds the last `capacity` words put at least, and twice as many at most. */
  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get(word: string): string[] | undefined {
    const recent = this.#recent.get(word)
    if (recent !== undefined) return recent
    const tokens = this.#before.get(word)
    if (tokens !== undefined) this.put(word, tokens)
    return tokens
  }

  put(word: string, tokens: string[]): void {
    if (this.#recent.size >= this.#capacity) {
      this.#before = this.#recent
      this.#recent = new Map()
    }
    this.#recent.set(word, tokens)
  }

  clear(): void {
    this.#recent.clear()
    this.#before.clear()
  }
}
