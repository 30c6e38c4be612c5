/**
 * What the whitened matrix loses: E(r) = sum of s_j^2 over j > r, r = 0..rank, summed from the last so that nothing
 * cancels. E is convex, so with plain factors the hull's segments are its singular values and merging them by slope
 * is one threshold on s_j^2 / (m + n) over the whole model.
 *
 * @param singular singular values of all ranks, falling
 */
export function energyCurve(singular: Float64Array): Float64Array {
  const curve = new Float64Array(singular.length + 1)
  for (let r = singular.length - 1; r >= 0; r--) {
    curve[r] = (curve[r + 1] as number) + (singular[r] as number) ** 2
  }
  return curve
}
