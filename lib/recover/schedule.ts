/** What a recovery does in which step: pure functions of its seed and of how far it has come. */

/** Share of the budget in which the rate rises. */
const warmUp = 0.1

/** Of the largest learning rate, at a share of the budget: a short rise, then half a cosine down to 0. */
export function rateAt(share: number): number {
  const at = Math.min(1, Math.max(0, share))
  if (at < warmUp) return at / warmUp
  return 0.5 * (1 + Math.cos((Math.PI * (at - warmUp)) / (1 - warmUp)))
}

/** Uniform in [0, 1): draw `index` of `seed`, whatever was drawn before (the finaliser of MurmurHash3). */
export function uniform(seed: number, index: number): number {
  let z = (Math.imul(seed | 0, 0x9e3779b1) + Math.imul(index | 0, 0x85ebca6b) + 0x2545f491) | 0
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
  return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32
}

/** The batch of a step: `size` of `count` windows; every epoch goes through all of them in an order of its own. */
export function batchOf(step: number, size: number, count: number, seed: number): Int32Array {
  const most = Math.min(size, count)
  const perEpoch = Math.floor(count / most)
  const epoch = Math.floor(step / perEpoch)
  const order = Int32Array.from({ length: count }, (_, index) => index)
  for (let last = count - 1; last > 0; last--) {
    const other = Math.floor(uniform(seed + 1, epoch * count + last) * (last + 1))
    const value = order[last] ?? 0
    order[last] = order[other] ?? 0
    order[other] = value
  }
  const begin = (step % perEpoch) * most
  return order.slice(begin, begin + most).sort()
}

/** The level of a step, drawn by the levels' weights (their sum is 1). */
export function levelOf(step: number, weights: readonly number[], seed: number): number {
  let left = uniform(seed + 2, step)
  for (const [level, weight] of weights.entries()) {
    left -= weight
    if (left < 0) return level
  }
  return 0
}

/** Weights of the levels with sum 1: those given, or half for level 0 and the other half for the rest together. */
export function weightsOf(levels: number, given?: readonly number[]): number[] {
  const weights =
    given ?? Array.from({ length: levels }, (_, level) => (level === 0 ? Math.max(1, levels - 1) : 1))
  const sum = weights.reduce((a, b) => a + b, 0)
  return weights.map((weight) => weight / sum)
}

/** Which of `count` windows are held out: up to 4, spread evenly so that every source of text has its share. */
export function heldOutOf(count: number): Int32Array {
  const held = Math.min(4, Math.max(1, Math.round(count / 16)))
  return Int32Array.from({ length: held }, (_, index) => Math.floor(((index + 1) * count) / held) - 1)
}
