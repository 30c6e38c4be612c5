/**
 * Seeded numbers, uniform in [0, 1) with 32 bits: SplitMix32's finaliser over a counter, so that draw i of a seed
 * is the same everywhere.
 */
export function uniformNumbers(seed: number): () => number {
  // Seeds above 32 bits keep their upper half.
  let state = mix((seed >>> 0) ^ mix(Math.floor(seed / 2 ** 32) >>> 0))
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    return mix(state) / 2 ** 32
  }
}

function mix(value: number): number {
  let z = value
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
  return (z ^ (z >>> 15)) >>> 0
}

/** A whole number below `count`. */
export function below(count: number, uniform: () => number): number {
  return Math.floor(uniform() * count)
}
