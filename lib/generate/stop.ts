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

  /** Takes one token's text and gives out what is certain; not this item yet where it is `open` to more text. */
  push(item: T, text: string, open = false): Held<T>[] {
    this.#held.push({ item, text })
    const all = this.#all()
    const end = this.#matched(all)
    if (end !== undefined) return this.#release(end, this.#held.length)
    const certain = all.length - longestOpenSuffix(all, this.#stops)
    let items = 0
    let position = 0
    for (const held of open ? this.#held.slice(0, -1) : this.#held) {
      position += held.text.length
      if (position > certain) break
      items++
    }
    return this.#release(certain, items)
  }

  /** The end of the stream: everything still held, the last item with this much more text. */
  finish(rest = ''): Held<T>[] {
    const last = this.#held.at(-1)
    if (last) last.text += rest
    return this.#release(this.#matched(this.#all()) ?? Number.POSITIVE_INFINITY, this.#held.length)
  }

  #all(): string {
    return this.#held.map((held) => held.text).join('')
  }

  #matched(all: string): number | undefined {
    const end = earliestMatch(all, this.#stops)
    if (end !== undefined) this.#stopped = true
    return end
  }

  /** The first held items, their text cut at `length`. */
  #release(length: number, items: number): Held<T>[] {
    const released: Held<T>[] = []
    let position = 0
    for (const held of this.#held.slice(0, items)) {
      const end = position + held.text.length
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
