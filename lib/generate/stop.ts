/** Text that waits until it is certain not to be part of a stop string, with the token it came from. */
export interface Held<T> {
  item: T
  text: string
}

/**
 * Splits a stream of token texts at the first stop string. An item is let go once no stop string can begin
 * inside its text any more, so every item comes out exactly once, with the text that is its own.
 */
export class StopFilter<T> {
  readonly #stops: readonly string[]
  #held: Held<T>[] = []
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  get stopped(): boolean {
    return this.#stopped
  }

  /** Takes one token's text and gives out what is certain. */
  push(item: T, text: string): Held<T>[] {
    this.#held.push({ item, text })
    const all = this.#held.map((held) => held.text).join('')
    const end = earliestMatch(all, this.#stops)
    if (end !== undefined) {
      this.#stopped = true
      return this.#release(end, true)
    }
    return this.#release(all.length - longestOpenSuffix(all, this.#stops), false)
  }

  /** The end of the stream: everything still held. */
  finish(): Held<T>[] {
    return this.#release(Number.POSITIVE_INFINITY, true)
  }

  #release(length: number, everything: boolean): Held<T>[] {
    const released: Held<T>[] = []
    let position = 0
    for (const held of this.#held) {
      const end = position + held.text.length
      if (end > length && !everything) break
      released.push({ item: held.item, text: held.text.slice(0, Math.max(0, length - position)) })
      position = end
    }
    this.#held = this.#held.slice(released.length)
    return released
  }
}

function earliestMatch(text: string, stops: readonly string[]): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop)).filter((index) => index >= 0)
  return found.length > 0 ? Math.min(...found) : undefined
}

function longestOpenSuffix(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length
        break
      }
    }
  }
  return longest
}
