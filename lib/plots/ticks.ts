/** Beyond so many decades only powers of ten are marked. */
const mostDecades = 2.5

/**
 * Round values of a logarithmic axis: 1, 2 and 5 times a power of ten, powers alone over many decades, and even
 * steps where it covers less than a factor of two.
 */
export function logTicks([low, high]: readonly [number, number], most = 8): number[] {
  if (high < 2 * low) return evenTicks([low, high])
  const first = Math.floor(Math.log10(low))
  const last = Math.ceil(Math.log10(high))
  const wide = Math.log10(high / low) > mostDecades
  const step = wide ? Math.ceil((last - first) / most) : 1
  const powers = Array.from(
    { length: Math.floor((last - first) / step) + 1 },
    (_, index) => first + index * step,
  )
  const digits = wide ? [1] : Math.log10(high / low) > 0.7 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]
  // Not digit * 10 ** power: 0.003 has a tail then.
  const values = powers.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)))
  return values.filter((value) => value >= low && value <= high)
}

const superscripts = '⁰¹²³⁴⁵⁶⁷⁸⁹'

/** Plain from 0.01 to 99999, otherwise as a product with a power of ten. */
export function formatTick(value: number): string {
  const exponent = Math.floor(Math.log10(Math.abs(value)) + 1e-9)
  if (value === 0 || (exponent >= -2 && exponent < 5)) return String(Number(value.toPrecision(3)))
  const power = [...String(exponent)].map((sign) => (sign === '-' ? '⁻' : superscripts[Number(sign)])).join('')
  const digit = Number((value / 10 ** exponent).toPrecision(2))
  return digit === 1 ? `10${power}` : `${digit}·10${power}`
}

/** Whole values at even steps, some eight of them. */
export function wholeTicks([low, high]: readonly [number, number]): number[] {
  return evenTicks([low, high], 1)
}

function evenTicks([low, high]: readonly [number, number], smallest = 0, most = 8): number[] {
  const least = Math.max(smallest, (high - low) / most)
  const power = 10 ** Math.floor(Math.log10(least))
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= least) ?? least
  const first = Math.ceil(low / step)
  const count = Math.floor(high / step) - first + 1
  return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(9)))
}
