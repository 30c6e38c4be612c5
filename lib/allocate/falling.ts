/**
 * A truncation curve made to fall: E'(r) = max of E from r on. Where a norm follows a projection (q and k of
 * Qwen3), its output's scale is not felt, so g . W x = 0 and E(0) = 0 although nothing is left, and E rises before
 * it falls. What a higher rank is estimated to lose, a lower one loses too.
 *
 * @param curve E(r), r = 0..rank
 */
export function falling(curve: Float64Array): Float64Array {
  const result = Float64Array.from(curve)
  for (let r = result.length - 2; r >= 0; r--) {
    result[r] = Math.max(result[r] as number, result[r + 1] as number)
  }
  return result
}
